"""The report's first view: cards, headline figure, one link; lines that reStructuredText takes; frames of any size."""

import re
from html import escape

import pandas as pd
import pytest
from docutils.core import publish_parts

from tests.unit.synthetic_results import CATALOGUE, PAIR, data_of, judged, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError, check
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results, samples_beside
from workflow_scripts.judge.verdict import LABELS, in_words
from workflow_scripts.report.landing import landing, style, with_frames
from workflow_scripts.report.summary import chosen, lines
from workflow_scripts.report.svg import NOTHING

HOSTILE = "</script><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landing")
    truth = study("m", {"lora-r4": 0.1, "idp-50-100": 0.1}, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1})
    figure = folder / "gains.svg"
    figure.write_text(f"<svg>{'x' * 50_000}</svg>")
    results = read_results(write_grid(folder, truth, 12))
    settings = {"description": HOSTILE, "expected": {"gptq-w3": {"wikipedia": "no_loss"}}}
    return landing(data_of(results, 60).verdict, settings, figure, "results/synthetic/overview.html")


def test_the_view_names_the_blocks_that_are_left_out_and_what_was_not_run(tmp_path):
    truth = study("m", {"lora-r4": 0.1, "idp-50-100": 0.1})
    verdict = data_of(read_results(write_grid(tmp_path, truth, 12)), 60).verdict
    settings = {"description": "", "blocks": {"core": {}, "recovery": {}, "seeds": {}}}
    said = landing(verdict, settings, None, "overview.html", ["core", "recovery"])
    assert "Counted: blocks core, recovery; left out: seeds." in said
    said = landing(verdict, settings, None, "overview.html", not_run="Not run: 1 of 2 measurements.")
    assert '<strong class="problem">Not run: 1 of 2 measurements.</strong>' in said
    assert "Counted" not in landing(verdict, settings, None, "overview.html")


def test_the_support_on_a_card_is_rounded_as_in_the_words(tmp_path):
    """Down above 99: 100 % stands for every draw."""
    verdict = data_of(read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1}), 12)), 60).verdict
    judged_as = verdict["groups"][0]["metrics"]["accuracy"]["verdict"]
    judged_as["support"] = dict.fromkeys(LABELS, 0.0) | {"no_loss": 0.9945, "unrecovered": 0.0055}
    said = landing(verdict, {"description": ""}, None, "overview.html")
    assert "no loss 99.4 %" in said and in_words(judged_as["support"]).startswith("no loss 99.4 %")
    judged_as["support"] |= {"no_loss": 0.9998}
    assert "no loss 99.9 %" in landing(verdict, {"description": ""}, None, "overview.html")


def test_a_card_for_each_verdict_the_figure_and_a_link_to_the_whole_page(view):
    places = re.findall('<p class="place"><span>(.*?)</span> <span>(.*?)</span>', view)
    assert [place for place, _ in places] == ["m · gptq-w3 · wikipedia", "m · sparsegpt-50 · wikipedia"]
    assert all(re.fullmatch(r"\d+ items of \d tasks, 1 compressed copy", basis) for _, basis in places)
    assert view.count("Lost by compression: L = ") == 2 and view.count("brought back R") == 2
    assert 'data-page="results/synthetic/overview.html"' in view and view.count("<img") == 1


def test_the_view_says_what_its_words_and_letters_mean(view):
    said = "<code>idp-50-100</code> redirects the input, <code>lora-r4</code> adds trained parameters."
    assert said in view and "<strong>Displaced</strong>: the first" in view
    key = view.partition("How to read the cards")[2].partition("</details>")[0]
    assert all(f"<strong>{label.replace('_', ' ')}</strong>: " in key for label in LABELS)
    assert "R = g − max(0, h)" in key and ": :" not in key


def test_a_dynamic_prompt_that_chose_one_prompt_for_all_items_is_told_on_card_and_console(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.2, "lora-r4": 0.2})
    [group] = verdict["groups"]
    assert chosen(verdict, group) == []  # 90 % of the items
    [row] = [r for r in verdict["scores"] if (r["compressor"], r["method"]) == ("gptq-w3", "idp-50-100")]
    row["selection"] |= {"prompt-50": 0.97, "prompt-100": 0.03}
    said = "idp-50-100 chose prompt-50 for 97 % of the items, so its numbers are those of one prompt"
    assert f"  mind: {said}" in lines(verdict)
    assert f"Mind: {said}." in landing(verdict, {"description": ""}, None, "overview.html")


def test_a_dynamic_prompt_that_chose_another_single_prompt_for_each_seed_is_told(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.2, "lora-r4": 0.2})
    [group] = [g for g in verdict["groups"] if g["compressor"] == "gptq-w3"]
    [row] = [r for r in verdict["scores"] if (r["compressor"], r["method"]) == ("gptq-w3", "idp-50-100")]

    def told(*shares: float) -> list[str]:
        """shares: of prompt-50, by seed."""
        seeds = [
            row | {"seed": n, "selection": {"prompt-50": s, "prompt-100": 1 - s}}
            for n, s in enumerate(shares)
        ]
        return chosen(verdict | {"scores": seeds}, group)

    assert told(1.0, 0.0, 0.98) == [
        "idp-50-100 chose one prompt a seed (prompt-50 for 2, prompt-100 for 1 of 3 seeds) for 99 % of the items, so "
        "its numbers are those of one prompt"
    ]
    assert told(1.0, 0.5, 1.0) == []  # the second seed chose
    assert told(1.0, 0.96) and "prompt-50 for 98 %" in told(1.0, 0.96)[0]


def test_a_grid_whose_tasks_are_all_at_chance_says_so_and_calls_no_finished_cell_missing(tmp_path):
    truth = study("m", {"idp-50-100": 0.05, "lora-r4": 0.0}, dense=0.15, losses={"gptq-w3": 0.1})
    paths = write_grid(tmp_path, truth, 12, 0.02)
    for samples in map(samples_beside, paths):
        frame = pd.read_parquet(samples)
        frame[frame["task"].isin(["sciq", "arc_easy"])].to_parquet(samples, index=False)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(100))
    check(verdict, "verdict", "verdict.json")
    found = verdict["groups"][0]["metrics"]["accuracy"]["verdict"]
    assert found["word"] == "unavailable" and "missing" not in found["meaning"]
    assert found["reason"].startswith(
        "the dense model answers none of the 2 tasks above chance with 24 items"
    )
    [said] = lines(verdict)
    assert said == f"m, gptq-w3, wikipedia: unavailable ({found['reason']})"
    view = landing(verdict, {"description": ""}, None, "overview.html")
    assert "not run" not in view and escape(found["reason"], quote=False) in view and "—" not in view


def test_labels_that_were_expected_stand_beside_the_verdicts_and_are_counted(view):
    assert view.count("Expected before the run: ") == 1 and "<strong>no loss</strong>.</p>" in view
    assert re.search("[01] of 1 verdicts are as expected, [01] says? another word(, 1 undecided)?[.]", view)


def test_no_text_of_the_configuration_is_code(view):
    assert HOSTILE not in view and "&lt;/script&gt;" in view


def test_docutils_passes_the_view_on_whole(view):
    """Of a line above 10,000 characters it makes an error, of a blank one the directive's end."""
    indented = "".join(f"    {line}\n" for line in view.splitlines())
    html = publish_parts(f".. raw:: html\n\n{indented}", writer_name="html")["html_body"]
    assert "system-message" not in html and view.strip() in html


def test_snakemakes_report_gets_the_script_and_one_that_is_cut_off_is_an_error():
    page = with_frames("<html><body>the report</body></html>")
    assert page.startswith("<html><body>the report<script>") and page.endswith("</script></body></html>")
    assert "createObjectURL" in page
    with pytest.raises(ArtifactError, match="no whole HTML page"):
        with_frames("<html><body>the rep")


def test_the_style_closes_no_element():
    assert "</" not in style() and ".landing" in style() and ".card" in style()


def test_a_headline_figure_without_data_is_left_out(tmp_path):
    """Its text alternative would speak of gains that it does not show."""
    truth = study("m", {"lora-r4": 0.1, "idp-50-100": 0.1})
    verdict = data_of(read_results(write_grid(tmp_path, truth, 12)), 60).verdict
    figure = tmp_path / "gains.svg"
    for notes, images in (("Differences of accuracy.", 1), (NOTHING, 0)):
        figure.write_text(f"<svg><dc:description>{notes}</dc:description></svg>")
        assert landing(verdict, {"description": ""}, figure, "overview.html").count("<img") == images
