"""Paths: each is spelled and parsed by one pattern, below any folder, with its companions."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflow_scripts.plan import layout
from workflow_scripts.plan.layout import (
    EXPORTS,
    Cell,
    Group,
    check_path,
    companions,
    lacks_companions,
    result_of,
)
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]
GPTQ = "results/smoke/evaluations/smollm2-135m/gptq-w3-g64/wikipedia/none/seed-0.json"
NAMES = {
    "grid": "g",
    "model": "m-1.5b",
    "compressor": "gptq-w3",
    "corpus": "none",
    "method": "idp-5-8",
    "seed": "12",
}


NAMES |= {"form": "gptq_v2", "benchmarks": "set", "task": "sciq"}


ARTEFACTS = [layout.MODEL, layout.CORPUS, layout.BENCHMARK, *layout.KINDS.values()]


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.rule)
@pytest.mark.parametrize("root", ["", "/data/run 2/", "../results/x/"])
def test_a_path_and_its_companions_give_their_names_back(artefact, root):
    path = artefact.path(**NAMES)
    named = {name: NAMES[name] for name in artefact.parse(path)}
    for file in (path, *(pattern.format(**NAMES) for pattern in artefact.companions)):
        assert artefact.parse(root + file) == artefact.parse(Path(root + file)) == named
    assert artefact.path(**named) == path and "{" not in artefact.log.format(**NAMES)


@pytest.mark.parametrize("artefact", layout.KINDS.values(), ids=lambda artefact: artefact.rule)
def test_no_path_is_of_two_artefacts(artefact):
    path = artefact.path(**NAMES)
    assert [other for other in ARTEFACTS if other.parse(path)] == [artefact]
    found, names = result_of(f"/elsewhere/{path}")
    assert found is artefact and names == artefact.parse(path)


@pytest.mark.parametrize("wrong", ["seed-012.json", "seed-.json", "seed-1.jsn", "seed-1.json.tmp", "seed-1"])
def test_a_file_of_another_form_is_no_evaluation(wrong):
    path = layout.EVALUATION.path(**NAMES).replace("seed-12.json", wrong)
    assert layout.EVALUATION.parse(path) is None
    with pytest.raises(ValueError, match="is no result"):
        result_of(path)


def test_a_cell_knows_its_files_and_its_group():
    cell = Cell.of(NAMES)
    assert cell.seed == 12 and cell.group == Group("m-1.5b", "gptq-w3", "none") == Group.at(cell.json)
    assert (
        Cell.of(layout.EVALUATION.parse(cell.samples))
        == Cell.of(layout.SIMILARITY.parse(cell.similarity))
        == cell
    )
    assert str(cell) == "m-1.5b / gptq-w3 / none / idp-5-8 / seed 12" and list(cell.axes) == list(layout.AXES)


def test_a_result_without_its_companion_is_incomplete(tmp_path):
    training = tmp_path / layout.ADAPTER.path(**NAMES)
    assert not lacks_companions(str(training))
    training.parent.mkdir(parents=True)
    training.touch()
    assert lacks_companions(str(training))
    for file in companions(str(training)):
        Path(file).touch()
    assert not lacks_companions(str(training))


def test_a_roll_up_belongs_to_its_grid():
    assert (
        layout.VERDICT.path("bench")
        == "results/bench/verdict.json"
        == layout.VERDICT.pattern.format(grid="bench")
    )


def test_a_compressed_model_without_a_seed_in_its_path_is_copy_0_and_nothing_else_moves():
    today = layout.COMPRESSED.path(**NAMES | {"seed": "0"})
    old = today.replace("/seed-0", "")
    assert layout.with_copy(old) == layout.with_copy(today) == today
    for artefact in ARTEFACTS:
        assert layout.with_copy(artefact.path(**NAMES)) == artefact.path(**NAMES)


@pytest.mark.parametrize(
    ("part", "wrong", "words"),
    [
        ("smoke", "smok", "'smok' is no name in grids; allowed: smoke, .*; did you mean 'smoke'"),
        (
            "gptq-w3-g64",
            "gptq-w9",
            "'gptq-w9' is no name in compressors; allowed: dense, .*; did you mean 'gptq-w",
        ),
        ("smollm2-135m", "smollm2", "'smollm2' is no name in models; .* did you mean 'smollm2-135m'"),
        ("wikipedia", "wikipedi", "'wikipedi' is no name in corpora; .*none; did you mean 'wikipedia'"),
        ("/none/", "/nothing/", "'nothing' is no name in methods"),
        ("evaluations", "evaluation", "'evaluation' is no kind of result; .* did you mean 'evaluations'"),
        ("seed-0.json", "seed-0.jsn", "is no result; it looks like .*/seed-<n>.json or .*.samples"),
        ("seed-0.json", "seed-00.json", "is no result"),
        ("/seed-0.json", "", "is no result"),
        ("evaluations", "adapters", "is no result; .*/training.json or .*adapter_config.json"),
    ],
)
def test_a_path_that_cannot_be_names_what_is_wrong_and_what_is_near(shipped, part, wrong, words):
    with pytest.raises(ValueError, match=words):
        check_path(GPTQ.replace(part, wrong), shipped.names())


def test_every_folder_that_a_rule_fills_is_a_kind_of_result_and_exports_have_formats(shipped):
    rules = "".join(file.read_text() for file in sorted(ROOT.glob("rules/*.smk")))
    assert not re.findall(r'"results/[^"]*\{model\}', rules)  # no rule spells such a path
    made = re.findall(
        r"output:\n(?:\s+#.*\n)?\s+(?:\w+=(?:(?:update|report)\(\s+)*)?layout\.(\w+)\.pattern", rules
    )
    assert {getattr(layout, name) for name in made} >= {*layout.KINDS.values()}
    path = "results/smoke/exported/smollm2-135m/gptq-w3-g64/wikipedia/seed-0/{}/export.json"
    for form in EXPORTS:
        check_path(path.format(form), shipped.names())
    with pytest.raises(ValueError, match=r"'gptq_v3' is no format of an export; .* did you mean 'gptq_v2'"):
        check_path(path.format("gptq_v3"), shipped.names())


def test_every_path_that_a_plan_makes_can_be(shipped):
    plan = Plan(shipped)
    for grid in shipped.grids:
        for path in plan.artefacts(grid):
            for file in (path, f"./{path}", *companions(path)):
                check_path(file, shipped.names())
    check_path("results/smoke/report.html", shipped.names())
    check_path("results/smoke/tables/table1.html", shipped.names())


# Paths and names of files that plan/layout.py spells, and files/members.py for the folders that jobs fill.
SPELLED = re.compile(
    r"(^|[/{} `])(results|resources|logs|work|tables|figures|archives|rebuilt|exported|evaluations|adapters)/"
    r"|^/?(manifest|compression|training|verdict|report|export|adopted|questions|paper_audit)\.json$"
    r"|^(train|heldout|data)?\.jsonl$|^(\.?/)?(results|resources|logs|work)$|\.samples\.|\.wheels"
    r"|(answers|ledger)\.parquet|(overview|report)\.html|paper_audit|adapter_(model\.safetensors|config\.)|weights\.safetensors"
)
SPELLERS = {"plan/layout.py", "files/members.py"}
NO_PATHS = {
    "commands/adopt.py: results",  # a key of its records
    "plan/schema/configuration.py: results",  # a unit on the reference page
    "files/source_files.py: .jsonl",  # files of a folder that the user names
    "plan/kinds.py: .jsonl",  # a form of such a file
}


def texts(file: Path) -> Iterator[str]:
    """The strings of a module, docstrings left out; the pieces of an f-string stand for themselves."""
    tree = ast.parse(file.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_a_path_is_spelled_in_the_layout_alone():
    package = ROOT / "workflow_scripts"
    spelled = {
        (os.path.relpath(file, package), text)
        for file in [*package.rglob("*.py"), *ROOT.glob("docs/hooks/*.py")]
        for text in texts(file)
        if SPELLED.search(text)
    }
    assert {name for name, _ in spelled} >= SPELLERS
    assert {f"{name}: {text}" for name, text in spelled if name not in SPELLERS} == NO_PATHS


def test_rules_and_templates_take_their_paths_from_the_layout():
    rules = [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")]
    lines = [line for file in rules for line in file.read_text().splitlines() if line.strip()[:1] != "#"]
    quoted = [text for line in lines for text in re.findall(r'"([^"]*)"', line)]
    assert len(quoted) > 100 and not [text for text in quoted if SPELLED.search(text)]
    pages = {file.name: file.read_text() for file in ROOT.glob("reports/templates/*.j2")}
    assert pages and not [
        name for name, page in pages.items() if re.search("(results|tables|figures)/", page)
    ]


def test_every_roll_up_has_the_log_of_its_rule_and_is_found_by_the_pattern_of_its_kind():
    assert layout.figure("pareto").log == "logs/{grid}/plot_figures.log"
    assert layout.AUDIT.log.endswith("audit_paper.log")
    for roll_up in (
        layout.VERDICT,
        layout.AUDIT,
        layout.table("changes", "csv"),
        layout.figure("figure4", "pdf"),
    ):
        assert layout.is_outcome(f"/data/{roll_up.path('g')}")
    for roll_up in (layout.LEDGER, layout.AUDIT_PAGE, layout.PAGE, layout.STAMP):
        assert not layout.is_outcome(roll_up.path("g"))
    assert layout.is_shared(layout.MODEL.path(**NAMES)) and not layout.is_shared(
        layout.VERDICT.path("resources")
    )
