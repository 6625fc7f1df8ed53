"""What `adopt` makes again, the folder for it, and what it decides; tests/workflow/test_adopt.py runs it whole."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.plan.test_upgrades import CELL, GPTQ, codes, make, places
from tests.unit.plan.test_upgrades import older as older_digest
from workflow_scripts.commands import adopt
from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_digest, write_json
from workflow_scripts.files.locks import held_by, hold
from workflow_scripts.judge.agreement import Agreement
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import ADAPTER, COMPRESSED, EVALUATION, companions
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.upgrades import Older, as_if, older_results

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def config():
    return read(*files(root=ROOT)) | {"adopt": {"samples": 1}}


@pytest.fixture
def plan(config, tmp_path, monkeypatch):
    """The smoke grid, all of it made by an older code on this kind of machine."""
    monkeypatch.chdir(tmp_path)
    plan = Plan(load(config))
    make(plan, "0")
    for path in plan.artefacts("smoke"):
        if path.startswith("results/"):
            machine = {"device": "cpu", "threads": 1, "host": "there", "cpu": adopt.processor()}
            write_json(path, {"manifest": read_json(path)["manifest"] | machine})
        else:
            Path(path).with_name("text").touch()
    return plan


def test_of_each_rule_and_kind_of_method_one_is_made_again(plan):
    older = older_results(plan, "smoke")
    samples = adopt.chosen(plan, "smoke", older)
    groups = [(sample.made.artefact.rule, sample.made.kind) for sample in samples]
    assert len(groups) == len(set(groups))
    assert set(groups) == {(result.artefact.rule, result.kind) for result in older}
    assert all(sample.made == sample.shown for sample in samples)


def test_the_cheapest_first_but_those_whose_weights_are_there_before(plan):
    """Both prompts cost the same here: the path decides, if no weights lack."""
    older = older_results(plan, "smoke")

    def prompt() -> Older:
        samples = adopt.chosen(plan, "smoke", older)
        return next(
            s.made for s in samples if (s.made.artefact, s.made.kind) == (EVALUATION, f"prompt on {GPTQ}")
        )

    one, other = prompt(), CELL._replace(method="prompt-50")
    assert one.names["method"] == "prompt-100"
    for file in companions(ADAPTER.path(**one.names)):
        Path(file).unlink()
    assert prompt().names["method"] == other.method


def test_weights_of_another_kind_of_processor_are_shown_by_a_cell_that_stands_on_them(plan):
    for path in plan.artefacts("smoke"):
        if COMPRESSED.parse(path) or ADAPTER.parse(path):
            write_json(path, {"manifest": read_json(path)["manifest"] | {"cpu": "another"}})
    samples = adopt.chosen(plan, "smoke", older_results(plan, "smoke"))
    shown = {sample.made.kind: sample.shown for sample in samples if sample.made.artefact == ADAPTER}
    assert {result.artefact for result in shown.values()} == {EVALUATION}
    assert shown[f"lora on {GPTQ}"].names["method"] == "lora-r2"
    models = [sample.shown for sample in samples if sample.made.artefact == COMPRESSED]
    assert {result.names["method"] for result in models} == {"none"}  # no adapter is trained again


@pytest.mark.parametrize(("cpu", "how"), [("another", "answers"), (None, "bits")])
def test_a_cell_on_weights_of_another_kind_of_processor_need_not_have_their_bits(plan, monkeypatch, cpu, how):
    """Weights of one kind of node, a cell of another: log-likelihoods 1e-6 apart refused them."""
    older = {result.path: result for result in older_results(plan, "smoke")}
    cell = next(result for result in older.values() if result.path == CELL.json)
    made = older[ADAPTER.path(**cell.names)]
    for result in (made, cell):
        manifest = read_json(result.path)["manifest"]
        write_json(Path("work") / result.path, {"manifest": manifest | {"code": result.new}})
    write_json(made.path, {"manifest": read_json(made.path)["manifest"] | ({"cpu": cpu} if cpu else {})})
    ways = {True: "bits", False: "answers"}
    monkeypatch.setattr(adopt, "agreement", lambda _, stored, again, same: Agreement(ways[same], 1))
    assert adopt._agreement(adopt.Remade(made, cell), Path("work")).how == how


def test_weights_are_shown_by_a_cell_whose_own_code_is_todays(plan):
    """Only the solver was edited: no cell is to be adopted, but cells show whether its weights are the same."""
    today = {kind: code for path, (_, code, kind) in places(plan).items() if COMPRESSED.parse(path)}
    by = {
        place: (older_digest("0", place[1]) if place[1] in today.values() else place[1])
        for place in places(plan).values()
    }
    recipes = as_if(plan, by).artefacts("smoke")
    for path, place in places(plan).items():
        made = {
            "code": by[place],
            "recipe": recipes[path],
            "device": "cuda",
            "threads": 1,
            "host": "h",
            "cpu": "c",
        }
        write_json(path, made if place[0] else {"manifest": made})
    samples = adopt.chosen(plan, "smoke", older_results(plan, "smoke"))
    assert {sample.made.artefact for sample in samples} == {COMPRESSED}
    assert {sample.shown.artefact for sample in samples} == {EVALUATION}


def test_each_architecture_is_asked_before_a_second_result_of_any(plan):
    found = older_results(plan, "smoke")
    one = next(result for result in found if result.path == CELL.json)
    same = [one._replace(path=f"{number}", names=one.names | {"model": "m"}) for number in range(3)]
    other = one._replace(path="other", names=one.names | {"model": "o"})
    for model, architecture in (("m", "llama"), ("o", "opt")):
        write_json(f"resources/models/{model}/manifest.json", {"architecture": architecture})
    for count, paths in ((1, ["0", "other"]), (2, ["0", "other"]), (3, ["0", "other", "1"])):
        assert [result.path for result in adopt._spread([*same, other], count, lambda _: 0)] == paths


def test_each_code_of_a_kind_is_asked(plan):
    """A LoRA that starts from EoRA needs other code than one that does not."""
    found = [result for result in older_results(plan, "smoke") if result.artefact == ADAPTER]
    lora = next(result for result in found if result.kind == f"lora on {GPTQ}")
    started = lora._replace(new="f" * 64)
    samples = [sample.made for sample in adopt.chosen(plan, "smoke", [*found, started])]
    assert {sample.new for sample in samples if sample.kind == lora.kind} == {lora.new, started.new}


def test_nothing_is_adopted_if_the_code_was_edited_meanwhile(plan):
    sample = next(
        s for s in adopt.chosen(plan, "smoke", older_results(plan, "smoke")) if s.made.kind == "none on dense"
    )
    again = Path("work") / sample.made.path
    write_json(again, {"manifest": read_json(sample.made.path)["manifest"] | {"code": "f" * 64}})
    with pytest.raises(
        ArtifactError, match="the code was edited while it was made again; nothing was adopted"
    ):
        adopt._agreement(sample, Path("work"))


def test_a_damaged_result_is_named_before_anything_is_made_again(plan, monkeypatch):
    monkeypatch.setattr(adopt, "scratch", lambda *_: pytest.fail("something is made again"))
    sample = next(
        s for s in adopt.chosen(plan, "smoke", older_results(plan, "smoke")) if s.made.kind == "none on dense"
    )
    path = Path(sample.made.path)
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 2'))
    with pytest.raises(
        ArtifactError, match=f"{path}: was changed after it was written.*nothing was made again"
    ):
        adopt._adopt(plan, "smoke", None, "1")


def test_sources_that_are_records_alone_are_named_before_anything_is_made_again(plan, monkeypatch):
    """A restored archive has no texts: the samples' jobs failed one after the other."""
    monkeypatch.setattr(adopt, "scratch", lambda *_: pytest.fail("something is made again"))
    source = Path("resources/corpora/wikipedia/manifest.json")
    source.with_name("text").unlink()
    with pytest.raises(ArtifactError, match=f"nothing was made again or adopted.*--force {source}$"):
        adopt._adopt(plan, "smoke", None, "1")


def test_ctrl_c_leaves_snakemake_to_cancel_its_jobs_and_adopts_nothing(plan, monkeypatch, capsys):
    """`subprocess.run` would kill it, and jobs on a cluster would go on."""
    snakemake = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(7)); signal.pause()"
    monkeypatch.setattr(adopt, "scratch", lambda *_: None)
    real, made = adopt.follow, []

    def interrupted(command: list[str]) -> int:
        threading.Timer(
            1.0, lambda: [os.kill(pid, signal.SIGINT) for pid in (made[0].pid, os.getpid())]
        ).start()
        return real([sys.executable, "-c", snakemake])

    class Process(subprocess.Popen):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(adopt, "follow", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert adopt._adopt(plan, "smoke", None, "1") == 1
    assert made[0].returncode == 7 and signal.getsignal(signal.SIGINT) == before
    assert "nothing was adopted" in capsys.readouterr().out
    assert not Path("results/smoke/adopted.json").exists()


def test_paths_of_the_configuration_hold_in_another_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    config = Plan(load(config)).config.dump() | {"llmcompressor_python": "other/bin/python"}
    config["models"] |= {"mine": {"source": "gguf", "parts": ["a.gguf"]}}
    config["compressors"] = {"own": {"recipe": "mine.yaml"}, "shipped": {"recipe": "recipes/fp8.yaml"}}
    found = adopt._absolute(config)
    here = Path.cwd()
    assert found["llmcompressor_python"] == f"{here}/other/bin/python"
    assert found["models"]["mine"]["parts"] == [f"{here}/a.gguf"]
    assert found["compressors"]["own"]["recipe"] == f"{here}/mine.yaml"
    assert found["compressors"]["shipped"]["recipe"] == "recipes/fp8.yaml"


def test_no_run_may_begin_meanwhile(plan, monkeypatch):
    """It would put today's results in the place of those that are compared with today's."""
    monkeypatch.setattr(adopt, "plan_of", lambda *_: plan)
    monkeypatch.setattr(adopt, "_adopt", lambda *_: held_by("results") is None)
    with hold("results"), pytest.raises(ArtifactError, match="A run works in this folder"):
        adopt.main("smoke")
    assert adopt.main("smoke") == 0


def test_in_the_working_folder_the_samples_alone_are_missing_and_the_rest_counts_as_planned(
    plan, monkeypatch
):
    older = older_results(plan, "smoke")
    samples = [s for s in adopt.chosen(plan, "smoke", older) if s.made.artefact == EVALUATION]
    missing = {file for s in samples for file in (s.made.path, *companions(s.made.path))}
    before = {path: Path(path).read_bytes() for path in plan.artefacts("smoke")}
    adopt.scratch(plan, "smoke", older, samples, Path("work/adopt/smoke/evaluate_cell"))
    monkeypatch.chdir("work/adopt/smoke/evaluate_cell")
    there = Plan(load(read(*files())))
    for path, recipe in there.artefacts("smoke").items():
        if path in missing:
            assert not Path(path).exists()
        else:
            assert recorded_digest(path, "recipe") == recipe, path
            assert Path(path).is_symlink() and Path(path).read_bytes() == before[path]


def test_folders_that_are_links_to_another_disk_are_there_too(plan, tmp_path):
    """The model was fetched and all copies were compressed again, before a cell was made."""
    for number, folder in enumerate((Path("resources/models"), Path("results/smoke/compressed"))):
        folder.rename(disk := tmp_path / f"disk {number}")
        folder.symlink_to(disk)
    older = older_results(plan, "smoke")
    samples = [s for s in adopt.chosen(plan, "smoke", older) if s.made.artefact == EVALUATION]
    place = Path("work/adopt/smoke/evaluate_cell")
    adopt.scratch(plan, "smoke", older, samples, place)
    made_before = [path for path in plan.artefacts("smoke") if "/evaluations/" not in path]
    assert [path for path in made_before if not (place / path).exists()] == []


@pytest.mark.parametrize("differing", [None, f"lora on {GPTQ}", "none on dense"])
def test_a_code_is_adopted_if_all_that_it_made_agrees(plan, differing):
    samples = [
        s for s in adopt.chosen(plan, "smoke", older_results(plan, "smoke")) if s.made.artefact == EVALUATION
    ]
    found = {
        s.made.path: Agreement("bits", 9, differences=["an item"] if s.made.kind == differing else [])
        for s in samples
    }
    adopted, refused = adopt.decided(samples, found)
    methods = [{s.made.kind.partition(" on ")[0] for s in mine} for mine in adopted]
    assert [s.made.kind for s in refused] == ([differing] if differing else [])
    own, shared = {"lora"}, {"none", "prompt", "prefix", "concat"}  # IDP has modules of its own, too
    expected = {None: [own, shared], f"lora on {GPTQ}": [shared], "none on dense": [own]}[differing]
    assert sorted(map(sorted, methods)) == sorted(map(sorted, [*expected, {"idp"}]))


def test_the_record_counts_what_it_made_planned_and_is_all_that_is_written(plan):
    samples = adopt.chosen(plan, "smoke", older_results(plan, "smoke"))
    found = {sample.made.path: Agreement("bits", 9) for sample in samples}
    before = {file: file.read_bytes() for file in Path("results").rglob("*.json")}
    adopted, _ = adopt.decided(samples, found)
    adopt._record(plan, "smoke", adopted, found)
    record = Path("results/smoke/adopted.json")
    rows = read_json(record, "adopted")["equivalences"]
    of_cells = [row for row in rows if row["rule"] == "evaluate_cell"]
    assert sum(row["results"] for row in of_cells) == 15
    assert [row for row in rows if "tasks" in row] == of_cells
    assert all(row["tasks"] == plan.tasks("smoke") for row in of_cells)
    assert {row["new"] for row in rows} <= {*codes(plan).values()}
    assert {file: file.read_bytes() for file in Path("results").rglob("*.json") if file != record} == before
    assert Path("resources/adopted.json").exists()
    assert older_results(Plan(plan.config), "smoke") == []
    assert Plan(plan.config).evaluate_recipe(CELL) == recorded_digest(CELL.json, "recipe")
