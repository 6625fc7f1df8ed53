"""readiness: what a run can't have is told with the key that is wrong, before any job and in a dry run."""

from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.plan import readiness
from workflow_scripts.plan.config import load
from workflow_scripts.plan.layout import BENCHMARK, CORPUS
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns

ROOT = Path(__file__).parents[3]
CELLS = "results/smoke/evaluations"


def local(config: dict, catalogue: str, *names: str) -> None:
    part = config[catalogue]
    for name in names[:-1]:
        part = part[name]
    sizes = {"parameters": 1000} if catalogue == "models" else {}
    part[names[-1]] = {"source": "local", "path": "nowhere/it"} | sizes


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("models", "smollm2-135m"), "models.smollm2-135m.path"),
        (("corpora", "wikipedia"), "corpora.wikipedia.path"),
        (("benchmarks", "pypi", "sciq"), "benchmarks.pypi.sciq.path"),
    ],
)
def test_a_local_source_that_is_not_there_is_named_by_its_key(unfetched, place, key):
    local(unfetched, *place)
    plan = Plan(load(unfetched))
    assert readiness.problems(plan, []) == [f"{key}: {Path.cwd()}/nowhere/it: no such file or folder"]
    assert readiness.problems(plan, [f"{CELLS}/a", "resources/b"]) == readiness.problems(plan, [])
    assert readiness.problems(plan, ["results/paper/report.html"]) == [], "paper does not use it"
    cell = plan.cells("smoke")[0].json
    assert readiness.problems(plan, [cell]) == [], "one cell may need less than its grid"
    assert readiness.problems(Plan(load(unfetched | {"rebuilt": True})), []) == []
    Path("nowhere").mkdir()
    Path("nowhere/it").touch()
    assert readiness.problems(Plan(load(unfetched)), []) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nowhere/it", "{here}/nowhere/it: no such file or folder"),
        (
            "a-00001-of-00002.gguf",
            "a-00002-of-00002.gguf: is missing; a-00001-of-00002.gguf is one of 2 parts",
        ),
    ],
)
def test_a_checkpoint_that_is_not_there_is_named_by_its_key(unfetched, file, said):
    Path("a-00001-of-00002.gguf").touch()
    unfetched["compressors"]["small"] = {"algorithm": "external", "source": "local", "path": file}
    assert readiness.problems(Plan(load(unfetched)), []) == [], "no block has it"
    unfetched["grids"]["smoke"]["blocks"]["new"] = {
        "models": ["smollm2-135m"],
        "compressors": ["small"],
        "corpora": ["wikipedia"],
        "methods": ["none"],
    }
    assert readiness.problems(Plan(load(unfetched)), []) == [
        f"compressors.small.path: {said.format(here=Path.cwd())}"
    ]


def test_a_source_that_was_fetched_is_not_looked_for(unfetched):
    local(unfetched, "corpora", "wikipedia")
    plan = Plan(load(unfetched))
    write_json(CORPUS.path(corpus="wikipedia"), {"manifest": {"recipe": plan.recipe("corpora", "wikipedia")}})
    assert readiness.problems(plan, []) == []


def test_a_task_that_nobody_defines_is_named(unfetched):
    smoke = unfetched["grids"]["smoke"]
    for name, entry in {
        "mine": {"task": "piqaa"},
        "boolq": {},
        "sciqq": {},
        "bare": {"task": "mmlu_pro_law"},
    }.items():
        unfetched["tasks"][name] = {"domain": "world"} | entry
        unfetched["benchmarks"]["pypi"][name] = unfetched["benchmarks"]["pypi"]["piqa"]
        smoke["tasks"] = [*smoke["tasks"], name]
    said = readiness.problems(Plan(load(unfetched)), [])
    none = "is no task of workflow_scripts/evaluate/tasks or of the harness"
    assert said == [
        f"tasks.mine: 'piqaa' {none}; did you mean 'piqa'?",
        f"tasks.sciqq: 'sciqq' {none}; `task` names the definition that asks it; did you mean 'sciq'?",
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{CELLS}/smollm2-135m/gptq-w3-g64/none/none/seed-0.json", "corpus 'none' can't be"),
        (f"{CELLS}/smollm2-135m/dense/wikipedia/none/seed-0.json", "ask for that"),
        (f"{CELLS}/smollm2-135m/dense/wikipedia/lora-r/seed-0.json", "'lora-r' is no name in methods"),
        (
            "results/smoke/adapters/smollm2-135m/gptq-w3-g64/none/lora-r2/seed-0/training.json",
            "corpus 'none'",
        ),
    ],
)
def test_a_path_of_no_result_is_told_in_one_line(unfetched, path, said):
    with pytest.raises(ValueError, match=said) as error:
        readiness.check_target(Reruns(Plan(load(unfetched)), set), path)
    assert len(str(error.value).splitlines()) == 1


def test_the_files_that_options_name_are_no_targets():
    words = (
        "-n --configfile results/mine.yaml --report results/a.html -- results/smoke/report.html ./resources/x"
    )
    assert readiness.targets(words.split()) == ["results/smoke/report.html", "./resources/x"]


def test_strata_that_no_document_has_are_named_before_any_job(unfetched):
    """The task was fetched before its entry named them; a file that will be fetched again is not looked at."""
    unfetched["tasks"]["sciq"]["strata"] = {"subject": "suport", "popularity": "mentions"}
    plan = Plan(load(unfetched))
    manifest = Path(BENCHMARK.path(benchmarks="pypi", task="sciq"))
    manifest.parent.mkdir(parents=True)
    manifest.with_name("data.jsonl").write_text('{"question": "q"}\n\n{"question": "q", "support": "s"}\n')
    write_json(manifest, {"recipe": "another"})
    assert readiness.problems(plan, []) == []
    write_json(manifest, {"recipe": plan.recipe("benchmarks", "pypi", "sciq")})
    said = f"no document of {manifest.with_name('data.jsonl')} has the field 'suport'; they have question, support"
    assert readiness.problems(plan, []) == [f"tasks.sciq.strata.subject: {said}; did you mean 'support'?"]
    unfetched["tasks"]["sciq"]["strata"]["subject"] = "support"
    assert readiness.problems(Plan(load(unfetched)), []) == []
