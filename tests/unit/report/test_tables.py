"""Tables 1 to 3: the paper's columns, printed values beside ours, missing cells shown, four formats."""

import copy
import csv
import io
import re
import shutil
import subprocess

import pytest

from tests.unit.synthetic_results import CATALOGUE, METHODS, PARAMETERS, data_of, study, write_grid
from workflow_scripts.files.artifacts import write_json
from workflow_scripts.judge import paper
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.cards import cards
from workflow_scripts.report.rendering import RENDERERS, latex, to_csv, to_html, to_latex, to_markdown
from workflow_scripts.report.summary import lines
from workflow_scripts.report.tables import build_tables, columns_of, describe, million, subject

GAINS = {
    "lora-r2": 0.05,
    "lora-r4": 0.1,
    "prompt-50": 0.05,
    "prompt-100": 0.06,
    "idp-50-100": 0.1,
    "concat-50-100": 0.02,
}
LOST = ("llama-7b", "gptq-w3", "wikipedia", "lora-r2", 0)


def tables_of(folder, truth, items=12, skip=()):
    results = read_results(write_grid(folder, truth, items, skip=skip))
    return build_tables(data_of(results, 200))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    truth = study("llama-7b", GAINS, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1}, control=False)
    truth["llama-7b", "gptq-w4", "wikipedia", "none", 0] = 0.6  # a sweep cell: figure 1 alone shows it
    return tables_of(tmp_path_factory.mktemp("grid"), truth, skip={LOST})


def row_of(table, method, compressor="gptq-w3"):
    panel = next(panel for panel in table.panels if panel.compressor == compressor)
    return next(row for row in panel.rows if row.method == method)


def test_the_columns_are_the_papers_under_the_tasks_own_names_and_one_task_is_its_domains_mean():
    assert list(columns_of(CATALOGUE["tasks"])) == [
        "arc_easy",
        "arc_challenge",
        "sciq",
        "webqs",
        "triviaqa",
        "World",
        "piqa",
        "hellaswag",
        "lambada_openai",
        "winogrande",
        "Language",
        "Average",
    ]


def test_a_task_of_ones_own_joins_its_domain():
    columns = columns_of({"arc_easy": {"domain": "world"}, "mine": {"domain": "world"}})
    assert columns == {
        "arc_easy": ["arc_easy"],
        "mine": ["mine"],
        "World": ["arc_easy", "mine"],
        "Average": ["arc_easy", "mine"],
    }


def test_quantised_sparse_and_ablation_panels_stand_apart(tables):
    assert [[p.compressor for p in t.panels] for t in tables] == [
        ["gptq-w3"],
        ["sparsegpt-50"],
        ["gptq-w3", "sparsegpt-50"],
    ]
    assert [row.method for row in tables[0].panels[0].rows] == [
        "dense",
        "none",
        "lora-r2",
        "lora-r4",
        "prompt-50",
        "prompt-100",
        "idp-50-100",
        "concat-50-100",
    ]


def test_printed_values_stand_beside_the_papers_cells_only(tables):
    assert row_of(tables[0], "idp-50-100").entries["Average"].printed == 58.79
    assert row_of(tables[1], "idp-50-100", "sparsegpt-50").entries["Average"].printed == 57.53
    assert row_of(tables[2], "prompt-100").entries["Average"].printed == 58.42
    assert row_of(tables[0], "dense").entries["Average"].printed is None
    assert row_of(tables[0], "concat-50-100").entries["Average"].printed is None


def test_domain_means_and_average_follow_from_the_tasks(tables):
    entries = row_of(tables[0], "lora-r4").entries
    assert "Common" not in entries
    for mean, members in (*paper.DOMAINS.items(), ("Average", list(paper.TASKS))):
        values = [entries[paper.TASKS[column]].value for column in members]
        assert len(values) == 1 or entries[mean].value == pytest.approx(sum(values) / len(values))


def test_the_interval_of_a_domain_combines_its_tasks(tables):
    entries = row_of(tables[0], "lora-r4").entries
    world, tasks = entries["World"], [paper.TASKS[column] for column in paper.DOMAINS["World"]]
    below = [entries[task].value - entries[task].low for task in tasks]
    assert world.low == pytest.approx(world.value - sum(x * x for x in below) ** 0.5 / 5)
    assert world.value - world.low < max(below) and world.low < world.value < world.high
    assert row_of(tables[0], "lora-r2").entries["World"].low is None  # not run
    assert row_of(tables[0], "dense").entries["World"].low < row_of(tables[0], "dense").entries["World"].value


def test_every_interval_is_text_and_none_a_tooltip(tables):
    page = to_html(tables[0])
    assert " title=" not in page and 'id="ends"' in page
    row = row_of(tables[0], "lora-r4")
    for name in ("arc_easy", "World"):
        low, high = row.entries[name].low, row.entries[name].high
        assert f'<small class="ends">[{low:.1f}, {high:.1f}]</small>' in page


def test_a_missing_cell_is_shown_and_named_never_averaged(tables):
    row = row_of(tables[0], "lora-r2")
    assert row.problem == "not run or failed"
    assert all(entry.value is None for entry in row.entries.values())
    assert tables[0].missing == ["llama-7b / gptq-w3 / wikipedia: lora-r2"]
    for render in (to_markdown, to_html):
        assert "not run or failed" in render(tables[0])


def test_an_incomplete_set_of_seeds_says_so(tmp_path):
    seeds = [("m", "gptq-w3", "wikipedia", "none", s) for s in (0, 1, 2)]
    table = tables_of(tmp_path, study("m", {"lora-r4": 0.1}) | dict.fromkeys(seeds, 0.6), skip={seeds[2]})[0]
    assert row_of(table, "none").problem == "mean of 2 of 3 seeds"
    assert table.missing == ["m / gptq-w3 / wikipedia: none (compressed)"]  # not: nothing is missing


def test_a_mean_over_some_seeds_is_labelled_in_every_format(tmp_path):
    seeds = [("m", "gptq-w3", "wikipedia", "lora-r4", s) for s in (0, 1, 2)]
    truth = study("m", {"lora-r4": 0.1}) | dict.fromkeys(seeds, 0.6)
    for folder, lost, label in (
        ("two", seeds[2:], "mean of 2 of 3 seeds"),
        ("one", seeds[1:], "only 1 of 3 seeds"),
    ):
        table = tables_of(tmp_path / folder, truth, skip=set(lost))[0]
        assert row_of(table, "lora-r4").problem == label and row_of(table, "lora-r4").gain.value is not None
        for render in RENDERERS.values():
            assert label in render(table)


def test_a_diverged_cell_says_so_and_keeps_its_other_labels(tmp_path):
    seeds = [("m", "gptq-w3", "wikipedia", "idp-50-100", s) for s in (0, 1, 2)]
    truth = study("m", {"idp-50-100": 0.1}) | dict.fromkeys(seeds, 0.6)
    results = read_results(write_grid(tmp_path, truth, 6, skip={seeds[2]}))
    for cell in results.evaluations:
        if cell.method == "idp-50-100":
            results.evaluations[cell]["perplexity"]["wikipedia"]["token"] = 2e6
            share = 0.5 + 0.1 * cell.seed
            results.evaluations[cell]["selection"] = {
                "prompt-50": share,
                "prompt-100": 1 - share,
                "by_task": {},
            }
    table = build_tables(data_of(results, 50))[0]
    row = row_of(table, "idp-50-100")
    assert row.problem == "mean of 2 of 3 seeds; diverged: its windowed perplexity is 2,000,000"
    # The mean of both seeds.
    assert row.note == "intervals cover items and 2 replicates; chose prompt-50 55 %, prompt-100 45 %"
    assert "diverged" in to_latex(table) and "diverged" in to_markdown(table)


def test_markdown_and_latex_have_what_their_notes_speak_of(tables):
    row = row_of(tables[0], "idp-50-100")
    average, gain = row.entries["Average"], row.gain
    for text in (to_markdown(tables[0]), to_latex(tables[0])):
        assert "etectable: the smallest gain" in text and "Wilson" in text
        line = next(line for line in text.splitlines() if "idp-50-100" in line)
        cells = [cell.strip() for cell in re.split(r"(?<!\\)[|&]", line)]
        first = next(n for n, cell in enumerate(cells) if f"[{average.low:.1f}, {average.high:.1f}]" in cell)
        assert f"{gain.value:+.1f}" in cells[first + 1] and f"{row.detectable:.1f}" == cells[first + 3]
    assert "Missing or incomplete: llama-7b / gptq-w3 / wikipedia: lora-r2." in to_latex(tables[0])


def test_rows_of_several_seeds_say_what_their_intervals_cover(tmp_path):
    truth = study("m", {"lora-r4": 0.1, "prompt-50": 0.1})
    truth |= {("m", "gptq-w3", "wikipedia", "lora-r4", s): 0.6 for s in (1, 2)}
    truth[("m", "gptq-w3", "wikipedia", "prompt-50", 1)] = 0.6
    table = tables_of(tmp_path, truth)[0]
    assert row_of(table, "lora-r4").note == "mean of 3 seeds; intervals cover items and 3 replicates"
    assert row_of(table, "prompt-50").note == "mean of 2 seeds; intervals cover items and 2 replicates"
    assert row_of(table, "lora-r4").entries["arc_easy"].low is None  # one cell's interval is not the mean's
    assert row_of(table, "none").entries["arc_easy"].low is not None
    truth |= {("m", "gptq-w3", "wikipedia", "none", s): 0.5 for s in (1, 2)}
    table = tables_of(tmp_path / "copies", truth)[0]
    assert row_of(table, "none").note == "mean of 3 seeds; intervals cover items and 3 replicates"


def test_a_detectable_gain_above_the_largest_that_can_be_is_left_empty(tmp_path):
    """Two copies that differ: a bootstrap over both has a standard error of dozens of points."""
    results = read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1}), 20))
    data = data_of(results, 100)
    row = data.verdict["groups"][0]["metrics"]["accuracy_all_tasks"]["methods"]["lora-r4"]
    said = "(empty: not even the largest gain that can be"
    assert said not in to_markdown(build_tables(data)[0])
    row["detectable"] = 1.179
    table = build_tables(data)[0]
    [shown] = [r for panel in table.panels for r in panel.rows if r.method == "lora-r4"]
    assert shown.detectable == pytest.approx(117.9)
    texts = {render: render(table) for render in (to_markdown, to_latex, to_html)}
    assert "|  | 1.2M |" in texts[to_markdown] and '<td data-value="117.9"></td>' in texts[to_html]
    assert all("117.9" not in text.replace('data-value="117.9', "") for text in texts.values())
    assert all(said in text for text in texts.values()) and "117.9000" in to_csv(table)


def test_a_mean_over_a_missing_task_is_missing(tmp_path):
    truth = study("m", {"lora-r4": 0.1})
    results = read_results(write_grid(tmp_path, truth, 6))
    for evaluation in results.evaluations.values():
        del evaluation["tasks"]["piqa"]
    entries = row_of(
        build_tables(data_of(results, 50))[0],
        "none",
    ).entries
    assert entries["piqa"].value is None and entries["Average"].value is None
    assert entries["World"].value is not None


def test_a_grid_without_idp_says_what_table_3_lacks(tmp_path):
    table = tables_of(tmp_path, study("m", {"lora-r4": 0.1}))[2]
    assert table.panels == []
    assert "Not in this grid: an IDP method." in to_markdown(table)
    assert "Not in this grid" in to_html(table)


def test_the_ablation_shows_other_ways_to_choose(tables):
    rows = {row.method: row for row in tables[2].panels[0].rows}
    average = {name: row.entries["Average"].value for name, row in rows.items()}
    assert average["oracle of idp-50-100"] >= max(average["prompt-50"], average["prompt-100"])
    assert average["random choice of idp-50-100"] == pytest.approx(
        (average["prompt-50"] + average["prompt-100"]) / 2
    )
    assert average["single best of idp-50-100"] == average["prompt-100"]  # its held-out perplexity is lower
    assert "looks at the answer" in rows["oracle of idp-50-100"].note
    for render in (to_markdown, to_latex, to_html):
        assert "lowest perplexity on held-out text, chosen without looking at any task" in render(tables[2])
        assert "Single best" not in render(tables[0])


def test_an_idp_without_a_members_cell_says_why_it_has_no_other_ways_to_choose(tmp_path, monkeypatch):
    seeds = {
        "kind": "idp",
        "members": [{"adapter": "prompt-50", "seed": 0}, {"adapter": "prompt-50", "seed": 1}],
    }
    monkeypatch.setitem(METHODS, "idp-50-seeds", seeds | {"score": "auto"})
    monkeypatch.setitem(PARAMETERS, "idp-50-seeds", 57_600)
    truth = study("m", {"prompt-50": 0.1, "idp-50-seeds": 0.1})
    said = "no single best, random choice or oracle: not evaluated here prompt-50 (seed 1)"
    table = tables_of(tmp_path / "lacking", truth)[2]
    assert row_of(table, "idp-50-seeds").note.endswith(said)
    assert not any(row.type == "choice" for row in table.panels[0].rows)
    truth |= {(*cell[:4], 1): value for cell, value in truth.items() if cell[3] == "prompt-50"}
    table = tables_of(tmp_path / "whole", truth)[2]
    assert "not evaluated here" not in row_of(table, "idp-50-seeds").note
    assert sum(row.type == "choice" for row in table.panels[0].rows) == 3


def test_idp_reports_the_share_of_each_prompt(tables):
    assert re.search(r"chose prompt-(50|100) \d+ %", row_of(tables[0], "idp-50-100").note)


def test_csv_holds_every_number_and_leaves_missing_ones_empty(tables):
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(to_csv(tables[0])))}
    assert float(rows["idp-50-100"]["Average_printed"]) == 58.79
    low, value, high = (float(rows["none"][f"arc_easy{end}"]) for end in ("_low", "", "_high"))
    assert low < value < high
    assert rows["lora-r2"]["Average"] == "" and rows["lora-r2"]["problem"] == "not run or failed"


def test_latex_is_balanced_and_escaped(tables):
    text = to_latex(tables[0])
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {18}
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[#_]", body)
    assert latex("a_b & 50 % {x}") == r"a\_b \& 50 \% \{x\}"


@pytest.mark.slow
def test_latex_compiles_with_any_name(tables, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    hostile = copy.deepcopy(tables)
    row = hostile[0].panels[0].rows[1]
    row.model, row.method, row.corpus = r"a_b & 50% {x} $y$ #1 ~ ^ \input{z}", "p<q>|r", "Δ ≥ — “é” × −"
    hostile[0].panels[0].title = row.model
    hostile[0].notes.append("first line\nsecond_line & more")
    body = "".join(to_latex(table) for table in hostile)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "t.log").read_text()


def test_html_is_self_contained_and_escaped(tmp_path):
    table = tables_of(tmp_path, study("m", {"lora-r4": 0.1}))[0]
    table.panels[0].rows[0].model = "<script>alert(1)</script>"
    page = to_html(table)
    assert "<script>alert(1)</script>" not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)


def test_markdown_cannot_be_broken_by_names(tmp_path):
    table = tables_of(tmp_path, study("m", {"lora-r4": 0.1}))[0]
    table.panels[0].rows[0].model = "a|b"
    assert r"a\|b" in to_markdown(table)


def test_every_format_has_a_renderer_that_gives_the_same_text_again(tables):
    assert set(RENDERERS) == {"csv", "md", "tex", "html"}
    for render in RENDERERS.values():
        assert render(tables[0]) == render(tables[0])


@pytest.mark.parametrize(
    ("count", "text"), [(0, "-"), (None, "—"), (106_496, "0.11M"), (4_718_592, "4.7M"), (28_800, "0.029M")]
)
def test_parameters_are_written_as_in_the_paper(count, text):
    assert million(count) == text


def test_a_table_without_quantised_models_is_not_called_theirs():
    gptq, other = {"algorithm": "gptq", "bits": 3}, {"algorithm": "drop-layers"}
    assert subject(1, []) == subject(1, [gptq]) == "Quantised models"
    assert subject(1, [gptq, other]) == "Quantised and other compressed models"
    assert subject(1, [other]) == "Compressed models"


def test_compressors_are_described_by_their_settings():
    assert (
        describe("g", {"algorithm": "gptq", "bits": 3, "group_size": 64})
        == "g (3 bits per weight, groups of 64)"
    )
    assert describe("s", {"algorithm": "sparsegpt", "pattern": "2:4"}) == "s (50 % zeros, 2:4 pattern)"
    assert describe("x", {"algorithm": "external"}) == "x (somebody else's checkpoint)"
    assert describe("d", {"algorithm": "drop-layers", "layers": [3, 4]}) == "d (2 decoder layers left out)"
    assert describe("f", {"algorithm": "svd", "ratio": 0.5}) == "f (factors with 50 % of the weights)"
    assert (
        describe("s", {"algorithm": "sparsegpt", "sparsity": 0.5, "pattern": None, "bits": None})
        == "s (50 % zeros, unstructured)"
    )


def test_the_format_of_a_chat_is_named_in_verdict_card_and_tables(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1, "idp-50-100": 0.1})))
    plain = data_of(results, 200).verdict
    assert "chat" not in plain and "chat template" not in "".join(lines(plain))
    for evaluation in results.evaluations.values():
        evaluation["manifest"]["config"] = {"chat": {"template_sha256": "3fa1b2c4" * 8, "day": "2024-07-26"}}
    data = data_of(results, 200)
    assert data.verdict["chat"] == {"m": "3fa1b2c4" * 8}
    write_json(tmp_path / "verdict.json", data.verdict, schema="verdict")
    said = "; asked through its chat template (3fa1b2c4)"
    assert any(line.endswith(said) for line in lines(data.verdict))
    assert cards(data.verdict["groups"], data.verdict)[0]["basis"].endswith(said)
    note = "Asked through the model's chat template, solved examples as turns: m (3fa1b2c4). All others: plain text."
    assert all(note in to_markdown(table) for table in build_tables(data))
    for evaluation in results.evaluations.values():
        evaluation["manifest"]["config"]["chat"]["system_message"] = "left out"
    data = data_of(results, 200)
    write_json(tmp_path / "verdict.json", data.verdict, schema="verdict")
    note = "The chat template of m takes no system message: tasks' descriptions are left out."
    assert data.verdict["without_system"] == ["m"] and note in to_markdown(build_tables(data)[0])


def test_the_notes_say_which_linears_each_lora_adapted_in_how_many_layers(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1})))
    for cell, evaluation in results.evaluations.items():
        if cell.method == "lora-r4":
            evaluation["parameters"]["linears"] = {"q_proj": 30, "v_proj": 30, "router": 15}
    said = f"LoRA adapts: lora-r4 of m: q_proj, v_proj of 30 layers; router of 15 layers, {PARAMETERS['lora-r4']:,} par"
    table = build_tables(data_of(results, 200))[0]
    assert any(note.startswith(said) for note in table.notes) and said in to_markdown(table)
