"""grid: cells, their inputs, and recipes that change exactly with what determines an artefact."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from workflow_scripts.commands import explain
from workflow_scripts.plan import contents, layout
from workflow_scripts.plan.config import ConfigError, files, load, named_files, read
from workflow_scripts.plan.contents import PIECE
from workflow_scripts.plan.digests import MODULES, OPTIONAL, import_closure
from workflow_scripts.plan.forecast import foreseen
from workflow_scripts.plan.layout import EXPORTS, Cell, check_path, companions
from workflow_scripts.plan.recipes import ANALYSIS, Plan, plan_of
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.schema.problems import json_schema
from workflow_scripts.plan.slices import UNTRAINED
from workflow_scripts.report.figure_style import FAMILIES
from workflow_scripts.report.tables import TYPES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shipped():
    return load(read(*files(root=ROOT)))


def changed_recipes(before: Plan, after: Plan, grid: str) -> tuple[set, set, set]:
    """(compressed, adapters, cells) whose recipes differ between two plans of a grid."""
    compressed = {
        cell[:4]
        for cell in before.cells(grid)
        if before.compressed_recipe(cell) != after.compressed_recipe(cell)
    }
    adapters = {a[1:] for a in before.adapters(grid) if before.train_recipe(a) != after.train_recipe(a)}
    cells = {c[1:] for c in before.cells(grid) if before.evaluate(c)["recipe"] != after.evaluate(c)["recipe"]}
    return compressed, adapters, cells


def edited(config, path, value):
    config = part = config.dump()
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return Plan(load(config))


def test_smoke_has_fifteen_cells_and_eight_adapters(shipped):
    plan = Plan(shipped)
    assert len(plan.cells("smoke")) == 15
    assert len(plan.adapters("smoke")) == 8


def test_cells_without_recovery_stand_at_the_corpus_and_seed_that_drew_their_copy(shipped):
    config = shipped.dump()
    block = {
        "models": ["smollm2-135m"],
        "compressors": ["dense", "rtn-w3", "gptq-w3"], "corpora": ["wikipedia", "c4-sample"],
        "methods": ["none", "prompt-50"], "seeds": [0, 1],
    }  # fmt: skip
    config["grids"]["smoke"]["blocks"] = {"only": block}
    cells = Plan(load(config)).cells("smoke")
    for compressor in ("dense", "rtn-w3"):
        found = [(c.corpus, c.seed) for c in cells if c.compressor == compressor and c.method == "none"]
        assert found == [("none", 0)], compressor
    assert [(c.corpus, c.seed) for c in cells if c.compressor == "gptq-w3" and c.method == "none"] == [
        ("wikipedia", 0), ("wikipedia", 1), ("c4-sample", 0), ("c4-sample", 1),
    ]  # fmt: skip
    assert len([c for c in cells if c.compressor == "dense" and c.method == "prompt-50"]) == 4
    assert len(cells) == len(set(cells))


def test_chosen_blocks_are_those_of_the_configured_grid_alone(shipped):
    every = Plan(shipped)
    plan = plan_of(files(root=ROOT), "bench", ["core", "seeds"])
    assert set(plan.blocks("bench")) == {"core", "seeds"}
    chosen = [*every.blocks("bench")["core"], *every.blocks("bench")["seeds"]]
    assert plan.cells("bench") == list(dict.fromkeys(chosen))
    assert plan.cells("smoke") == every.cells("smoke")
    assert {cell.compressor for cell in plan.adapters("bench")} == {"dense", "gptq-w3-g64", "sparsegpt-50"}
    assert plan.analysis("bench", "judge")["cells"] == [cell.json for cell in plan.cells("bench")]
    page = plan.analysis("bench", "draw_page")
    assert page["blocks"]["counted"] == ["core", "seeds"]
    assert page["blocks"]["left_out"] == [
        "second-corpus",
        "prefix-concat",
        "controls",
        "idp-controls",
        "figure-1",
        "figure-6",
        "recovery",
    ]
    assert page["planned"] == {"similarity": 40, "latency": 2}
    assert every.analysis("bench", "draw_page")["blocks"]["left_out"] == []


def test_a_dense_adapter_is_trained_on_the_uncalibrated_model(shipped):
    cell = Cell("bench", "smollm2-135m", "dense", "wikipedia", "prompt-50", 0)
    assert (
        Plan(shipped).compression(cell)
        == "results/bench/compressed/smollm2-135m/dense/none/seed-0/compression.json"
    )
    assert (
        cell.training == "results/bench/adapters/smollm2-135m/dense/wikipedia/prompt-50/seed-0/training.json"
    )


def test_each_seed_compresses_trains_and_evaluates_its_own_copy(shipped):
    config = shipped.dump()
    core = config["grids"]["smoke"]["blocks"]["core"]
    core |= {"compressors": ["gptq-w3-g64", "rtn-w3"], "methods": ["none", "prompt-50"], "seeds": [0, 1, 2]}
    config["grids"]["smoke"]["latency"] = config["grids"]["bench"]["latency"]
    plan = Plan(load(config))
    drawn, fixed = ([c for c in plan.cells("smoke") if c.compressor == name] for name in core["compressors"])
    assert all(plan.copy(cell).seed == cell.seed for cell in drawn)
    assert len({plan.compressed_recipe(cell) for cell in drawn}) == 3
    assert {plan.compression(cell) for cell in fixed} == {
        "results/smoke/compressed/smollm2-135m/rtn-w3/none/seed-0/compression.json"
    }
    counts = Counter(cost.kind for cost in foreseen(plan, "smoke").costs)
    assert counts["compress_model"] == len(plan.copies("smoke")) == 5  # dense, three of GPTQ, one of RTN
    assert counts["train_adapter"] == 6 and counts["evaluate_cell"] == len(plan.cells("smoke")) == 11
    assert counts["measure_similarity"] == len(plan.similarity_cells("smoke")) == 4
    assert {place["seed"] for place in plan.latency_places("smoke").values()} == {"0"}


def test_one_copy_of_a_model_is_timed_that_of_the_lowest_seed(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["seeds"] = [3, 2]
    config["grids"]["smoke"]["latency"] = config["grids"]["bench"]["latency"]
    places = Plan(load(config)).latency_places("smoke")
    assert [(place["compressor"], place["seed"]) for place in places.values()] == [
        ("dense", "0"),
        ("gptq-w3-g64", "2"),
    ]


def test_a_prompt_that_is_trained_twice_stands_on_the_cells_own_copy(shipped):
    plan = Plan(shipped)
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "idp-50-seeds", 3)
    members = plan.members(cell)
    assert [member.method for member in members] == ["prompt-50", "prompt-50-again"]
    assert {plan.copy(member) for member in members} == {plan.copy(cell)}
    assert len({plan.train_recipe(member) for member in members}) == 2


@pytest.mark.parametrize(
    ("compressor", "refused"), [("gptq-w3-g64", True), ("dense", False), ("rtn-w3", False)]
)
def test_a_member_of_another_copy_is_refused(shipped, compressor, refused):
    config = shipped.dump()
    members = ["prompt-50", {"adapter": "prompt-50", "seed": 1}]
    config["methods"]["mixed"] = {"kind": "idp", "members": members}
    plan = Plan(load(config))
    cell = Cell("smoke", "smollm2-135m", compressor, "wikipedia", "mixed", 0)
    assert [member.seed for member in plan.members(cell)] == [0, 1]
    if not refused:
        assert plan.check(cell) == cell
        return
    said = "methods.mixed.members: seed 1 of prompt-50 is trained on another copy of gptq-w3-g64; .* `seed_offset`"
    with pytest.raises(ValueError, match=said):
        plan.check(cell)


def test_members_of_other_text_are_trained_on_the_cells_own_weights(shipped):
    """The path's corpus is the calibration corpus; the method's is the text alone."""
    plan = Plan(shipped)
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "idp-50-corpora", 0)
    members = plan.members(cell)
    assert [plan.training_text(member).corpus for member in members] == ["wikipedia", "c4-sample"]
    assert {plan.compression(member) for member in members} == {plan.compression(cell)}
    other = edited(shipped, ["corpora", "c4-sample", "file"], "exllamav3/conversion/other.utf8")
    assert [plan.train_recipe(m) == other.train_recipe(m) for m in members] == [True, False]
    assert plan.compressed_recipe(cell) == other.compressed_recipe(cell)
    assert plan.evaluate_recipe(cell) != other.evaluate_recipe(cell)


def test_a_text_that_adapters_alone_are_trained_on_is_among_what_the_grid_fetches(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("prompt-50-c4-sample")
    text = "resources/corpora/c4-sample/manifest.json"
    assert text in Plan(load(config)).artefacts("smoke") and text not in Plan(shipped).artefacts("smoke")


def test_answers_are_sought_in_the_text_that_the_pair_is_trained_on(shipped):
    config = shipped.dump()
    config["grids"]["bench"]["pair"]["prompt"] = "idp-50-corpora"
    both = ["c4-sample", "wikipedia"]
    plan = Plan(load(config))
    assert plan.training_corpora("bench") == {"wikipedia": both, "c4-sample": ["c4-sample"]}
    searched = plan.analysis("bench", "find_answers")["corpora"]
    assert searched["wikipedia"] == [f"resources/corpora/{name}/manifest.json" for name in both]


def test_the_learning_rate_of_one_method_changes_its_adapters_and_cells_alone(shipped):
    after = edited(shipped, ["methods", "prompt-50", "training"], {"learning_rate": 0.02})
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert not compressed
    assert {a[3] for a in adapters} == {"prompt-50"} and len(adapters) == 2
    assert {c[3] for c in cells} == {"prompt-50", "idp-50-100", "concat-50-100"} and len(cells) == 6


def test_adding_a_method_a_task_set_or_a_model_changes_nothing_else(shipped):
    for path, value in (
        (["methods", "prompt-7"], {"kind": "prompt", "tokens": 7}),
        (["tasks", "copa"], {"domain": "common"}),
        (["models", "other"], {"source": "local", "path": "x", "parameters": 1e6}),
        (["benchmarks", "mine"], {"arc_easy": {"source": "local", "path": "x"}}),
        (["compressors", "gptq-w2-mine"], {"algorithm": "gptq", "bits": 2}),
        (["activation_memory"], 0.5),
    ):
        assert changed_recipes(Plan(shipped), edited(shipped, path, value), "smoke") == (set(), set(), set())


def test_a_compressor_setting_changes_everything_that_stands_on_it(shipped):
    after = edited(shipped, ["compressors", "gptq-w3-g64", "damping"], 0.1)
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert {key[2] for key in compressed} == {"gptq-w3-g64"}
    assert {a[1] for a in adapters} == {c[1] for c in cells} == {"gptq-w3-g64"}
    assert (len(adapters), len(cells)) == (4, 7)


def test_the_precision_of_forward_passes_is_in_the_slice_only_where_it_is_named(shipped):
    assert (
        "forward"
        not in Plan(shipped).compress("smoke", "smollm2-135m", "gptq-w3-g64", "wikipedia", "0")["compressor"]
    )
    after = edited(shipped, ["compressors", "gptq-w3-g64", "forward"], "bf16")
    compressed, _, _ = changed_recipes(Plan(shipped), after, "smoke")
    assert {key[2] for key in compressed} == {"gptq-w3-g64"}


def test_a_chat_changes_a_models_evaluations_alone(shipped):
    before = Plan(shipped)
    plain = edited(shipped, ["models", "smollm2-135m", "chat"], False)
    chat = edited(shipped, ["models", "smollm2-135m", "chat"], True)
    cells = before.cells("smoke")
    assert all(plain.evaluate(cell) == before.evaluate(cell) for cell in cells)
    assert "chat" not in before.evaluate(cells[0])
    assert changed_recipes(before, chat, "smoke") == (set(), set(), {cell[1:] for cell in cells})
    assert all(chat.evaluate(cell)["chat"] is True for cell in cells)
    assert chat.recipe("models", "smollm2-135m") == before.recipe("models", "smollm2-135m")
    for cell in before.similarity_cells("smoke"):
        assert chat.similarity(cell) == before.similarity(cell)


def test_items_change_cells_but_not_adapters(shipped):
    after = edited(shipped, ["grids", "smoke", "evaluation", "items"], 11)
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert not compressed and not adapters and len(cells) == 15


def test_what_no_result_depends_on_is_in_no_recipe(shipped):
    before = Plan(shipped)
    for path in (
        ["models", "smollm2-135m", "note"],
        ["corpora", "wikipedia", "licence"],
        ["benchmarks", "pypi", "sciq", "note"],
    ):
        after = edited(shipped, path, "other words")
        assert after.artefacts("bench") == before.artefacts("bench"), path
        assert "other words" in after.said(*path[:-1]).values()
    after = edited(shipped, ["training", "bench", "checkpoint_minutes"], 30)
    assert after.artefacts("bench") == before.artefacts("bench")


def test_the_text_that_teaches_an_idp_to_choose_is_an_input_of_its_cells(shipped):
    """On the dense model, with members of other text, nothing else stands on the path's corpus."""
    plan = Plan(shipped)
    place = Cell("bench", "smollm2-135m", "dense", "wikitext2", "idp-50-corpora", 0)
    after = edited(shipped, ["corpora", "wikitext2", "heldout"], "validation")
    for method, changes in (("idp-50-corpora", False), ("idp-50-corpora-learned", True)):
        cell = place._replace(method=method)
        assert (plan.evaluate_recipe(cell) != after.evaluate_recipe(cell)) == changes
        files = Reruns(plan, set).centring_text({**cell._asdict(), "seed": "0"})
        assert [file.path for file in files] == ["resources/corpora/wikitext2/manifest.json"] * changes


def test_a_passage_is_given_to_the_open_book_cells_alone(shipped):
    config = shipped.dump()
    smoke = config["grids"]["smoke"]
    smoke["tasks"].append("sciq-closed")
    smoke["blocks"]["core"]["methods"].append("open-book")
    plan = Plan(load(config))
    (cell,) = (c for c in plan.cells("smoke") if c[2:5] == ("gptq-w3-g64", "wikipedia", "open-book"))
    given = plan.evaluate(cell)["tasks"]
    assert [task for task in given if "context" in given[task]] == ["sciq-closed"]
    assert all(
        "context" not in task for task in plan.evaluate(cell._replace(method="none"))["tasks"].values()
    )
    assert plan.members(cell) == []
    after = edited(plan.config, ["tasks", "sciq-closed", "context"], "{{ support }}\n\n")
    compressed, adapters, cells = changed_recipes(plan, after, "smoke")
    assert not compressed and not adapters and {c[3] for c in cells} == {"open-book"}


def test_an_open_book_method_needs_a_task_with_a_passage(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("open-book")
    with pytest.raises(
        ConfigError, match=r"core\.methods\[7\]: 'open-book' gives the passage .* no task of this grid"
    ):
        load(config)


def test_a_repair_of_a_model_without_some_layers_is_told_before_any_job(shipped):
    config = shipped.dump()
    core = config["grids"]["smoke"]["blocks"]["core"]
    config["compressors"]["shorter"] = {"algorithm": "drop-layers", "layers": [3]}
    core["compressors"].append("shorter")
    core["methods"] += ["eora-r4", "lora-r4", "lora-r4-eora"]
    with pytest.raises(ConfigError) as error:
        load(config)
    said = "repairs each layer by the dense one, and shorter leaves layers out"
    assert [line.partition(": ")[2] for line in str(error.value).splitlines() if said in line] == [
        f"'{name}' {said}; make a block without it" for name in ("eora-r4", "lora-r4-eora")
    ]


def with_facts(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("lora-r4-triviaqa-even")
    return load(config)


def test_an_adapter_of_a_tasks_items_stands_on_these_and_their_wordings(shipped):
    """The path's corpus still calibrates the weights; no evaluation depends on the wordings."""
    plan = Plan(with_facts(shipped))
    (adapter,) = (
        a for a in plan.adapters("smoke") if a[2:5] == ("gptq-w3-g64", "wikipedia", "lora-r4-triviaqa-even")
    )
    assert plan.train(adapter)["method"]["corpus"] == {"task": "triviaqa", "part": "even"}
    assert plan.train(adapter)["scored"] == {"triviaqa": 10}  # no other is trained on
    (text,) = (Reruns(plan, set).training_text({**adapter._asdict(), "seed": "0"}),)
    assert text == (
        "resources/benchmarks/pypi/triviaqa/manifest.json",
        plan.recipe("benchmarks", "pypi", "triviaqa"),
    )
    after = edited(plan.config, ["tasks", "triviaqa", "wordings"], ["{{ question }} {{ answer.value }}"])
    compressed, adapters, cells = changed_recipes(plan, after, "smoke")
    assert not compressed and {a[3] for a in adapters} == {c[3] for c in cells} == {"lora-r4-triviaqa-even"}
    assert "wikipedia" in {name for names in plan.training_corpora("smoke").values() for name in names}


def test_an_adapter_of_a_family_stands_on_its_tasks_and_on_how_many_items_are_scored(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"] += [
        "prompt-50-trivia",
        "prompt-50-science",
        "idp-50-families",
    ]
    config["grids"]["smoke"]["tasks"].remove("webqs")
    plan = Plan(load(config))
    (adapter,) = (
        a for a in plan.adapters("smoke") if a[2:5] == ("gptq-w3-g64", "wikipedia", "prompt-50-trivia")
    )
    assert plan.train(adapter)["scored"] == {"webqs": 0, "triviaqa": 10}
    reruns, names = Reruns(plan, set), {**adapter._asdict(), "seed": "0"}
    assert reruns.training_text(names) == reruns.corpus("wikipedia")  # on whose held-out text it is watched
    assert reruns.family(names) == [reruns.benchmark("smoke", task) for task in ("webqs", "triviaqa")]
    assert "resources/benchmarks/pypi/webqs/manifest.json" in plan.artefacts("smoke")  # fetched, not scored
    after = edited(plan.config, ["grids", "smoke", "evaluation", "items"], 11)
    _, adapters, _ = changed_recipes(plan, after, "smoke")
    assert {a[3] for a in adapters} == {"prompt-50-trivia", "prompt-50-science"}


def test_a_grid_that_scores_no_item_of_the_task_is_told_before_any_job(shipped):
    config = with_facts(shipped).dump()
    config["grids"]["smoke"]["tasks"].remove("triviaqa")
    with pytest.raises(ConfigError, match=r"blocks\.core\.methods\[7\]: .* of which this grid scores none"):
        load(config)


def test_a_repair_depends_on_weights_and_calibration_text_and_on_no_training_budget(shipped):
    config = shipped.dump()
    methods = config["grids"]["smoke"]["blocks"]["core"]["methods"]
    methods += ["eora-r4", "lora-r4-eora", "lora-r4"]
    plan = Plan(load(config))
    cells = {a.method: a for a in plan.adapters("smoke") if a.compressor == "gptq-w3-g64"}
    eora, start, lora = (cells[name] for name in ("eora-r4", "lora-r4-eora", "lora-r4"))
    assert (
        plan.train(eora)["calibration"] == plan.train(start)["calibration"] == {"windows": 16, "length": 512}
    )
    assert "calibration" not in plan.train(lora)
    assert sorted(plan.train(eora)["training"]) == sorted(UNTRAINED)
    budget = edited(plan.config, ["training", "smoke", "tokens"], 20480)
    assert budget.train_recipe(eora) == plan.train_recipe(eora)
    assert budget.train_recipe(start) != plan.train_recipe(start)
    windows = edited(plan.config, ["grids", "smoke", "calibration", "windows"], 17)
    uncalibrated = eora._replace(compressor="rtn-w3")
    assert windows.train_recipe(uncalibrated) != plan.train_recipe(uncalibrated)
    assert [plan.repairs(cell) for cell in (eora, start, lora)] == [True, True, False]


@pytest.fixture
def local(tmp_path, monkeypatch, shipped):
    """Gives the recipe of a local model or corpus at a path; both lie below the working folder."""
    model = tmp_path / "disk" / "weights"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(5 * PIECE))
    (tmp_path / "disk" / "text.txt").write_text("text")
    monkeypatch.chdir(tmp_path)

    def recipe(catalogue: str, path: object) -> str:
        more = {"parameters": 1e6} if catalogue == "models" else {}
        config = shipped.dump()
        config[catalogue]["mine"] = {"source": "local", "path": str(path), **more}
        return Plan(load(config)).recipe(catalogue, "mine")

    return recipe


@pytest.mark.parametrize(("catalogue", "name"), [("models", "weights"), ("corpora", "text.txt")])
def test_where_a_local_source_lies_is_no_part_of_its_recipe(local, tmp_path, catalogue, name):
    before = local(catalogue, f"disk/{name}")
    assert local(catalogue, tmp_path / "disk" / name) == before
    shutil.move(tmp_path / "disk", tmp_path / "other mount")
    assert local(catalogue, tmp_path / "other mount" / name) == before
    (tmp_path / "other mount" / "weights" / ".cache").write_text("a hidden file")
    assert local(catalogue, f"other mount/{name}") == before
    assert local(catalogue, f"disk/{name}") != before, "it is not there any more"


@pytest.mark.parametrize("place", [0, -1])
def test_other_contents_of_the_same_size_are_another_source(local, place):
    before = local("models", "disk/weights")
    weights = bytearray(5 * PIECE)
    weights[place] = 1
    Path("disk/weights/model.safetensors").write_bytes(weights)
    assert local("models", "disk/weights") != before
    Path("disk/weights/model.safetensors").write_bytes(bytes(5 * PIECE))
    Path("disk/weights/config.json").write_text("[]")
    assert local("models", "disk/weights") != before


def test_a_path_reaches_the_job_though_no_recipe_holds_it(shipped):
    after = edited(shipped, ["models", "mine"], {"source": "local", "path": "a", "parameters": 1e6})
    assert after.said("models", "mine") == {"path": "a"}
    assert after.fetch("models", "mine")["spec"] == {"source": "local", "allow_remote_code": False}


def test_a_grids_description_changes_the_pages_that_show_it_alone(shipped):
    before, after = Plan(shipped), edited(shipped, ["grids", "smoke", "description"], "Other words.")
    assert after.artefacts("smoke") == before.artefacts("smoke")
    changed = [
        entry
        for entry in (*ANALYSIS, "report_grid")
        if after.analysis("smoke", entry)["recipe"] != before.analysis("smoke", entry)["recipe"]
    ]
    assert changed == ["draw_page", "report_grid"]


def test_few_shot_changes_the_tasks_of_its_cells_alone(shipped):
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "fewshot-4", 0)
    plan = Plan(shipped)
    assert cell in plan.cells("bench")
    assert {task["num_fewshot"] for task in plan.evaluate(cell)["tasks"].values()} == {4}
    assert {
        task["num_fewshot"] for task in plan.evaluate(cell._replace(method="none"))["tasks"].values()
    } == {None}
    assert plan.members(cell) == [] and plan.adapters("bench") == Plan(shipped).adapters("bench")


def test_every_kind_of_method_has_its_modules_its_type_in_the_tables_and_its_marks_in_the_figures():
    methods = json_schema()["properties"]["methods"]["additionalProperties"]
    kinds = set(methods["discriminator"]["mapping"])
    assert kinds == set(MODULES) == set(TYPES) == set(FAMILIES)
    assert len(FAMILIES) == len({marker for _, _, marker, _ in FAMILIES.values()})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("dense", "none", "lora-r2", 0), "corpus 'none' can't be, lora-r2 is trained on a corpus"),
        (("gptq-w4", "none", "none", 0), "corpus 'none' can't be, gptq-w4 is calibrated on a corpus"),
        (
            ("rtn-w3", "wikipedia", "none", 0),
            "this is results/smoke/evaluations/smollm2-135m/rtn-w3/none/none/seed-0",
        ),
        (("rtn-w3", "none", "none", 3), "this is .*rtn-w3/none/none/seed-0.json; ask for that"),
        (("dense", "none", "none", 1), "dense calibrates nothing, so this is .*dense/none/none/seed-0.json"),
    ],
)
def test_a_cell_that_cannot_be_is_named_with_what_is_meant(shipped, place, message):
    compressor, corpus, method, seed = place
    with pytest.raises(ValueError, match=message):
        Plan(shipped).check(Cell("smoke", "smollm2-135m", compressor, corpus, method, seed))


GPTQ = "results/smoke/evaluations/smollm2-135m/gptq-w3-g64/wikipedia/none/seed-0.json"


@pytest.mark.parametrize(
    ("part", "wrong", "words"),
    [
        ("smoke", "smok", "'smok' is no name in grids; allowed: smoke, .*; did you mean 'smoke'"),
        ("gptq-w3-g64", "gptq-w9", "'gptq-w9' is no name in compressors; allowed: dense, .*; did you mean 'gptq-w"),
        ("smollm2-135m", "smollm2", "'smollm2' is no name in models; .* did you mean 'smollm2-135m'"),
        ("wikipedia", "wikipedi", "'wikipedi' is no name in corpora; .*none; did you mean 'wikipedia'"),
        ("/none/", "/nothing/", "'nothing' is no name in methods"),
        ("evaluations", "evaluation", "'evaluation' is no kind of result; .* did you mean 'evaluations'"),
        ("seed-0.json", "seed-0.jsn", "is no result; it looks like .*/seed-<n>.json or .*.samples"),
        ("seed-0.json", "seed-00.json", "is no result"),
        ("/seed-0.json", "", "is no result"),
        ("evaluations", "adapters", "is no result; .*/training.json or .*adapter_config.json"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_names_what_is_wrong_and_what_is_near(shipped, part, wrong, words):
    with pytest.raises(ValueError, match=words):
        check_path(GPTQ.replace(part, wrong), shipped.names())


def test_every_folder_that_a_rule_fills_is_a_kind_of_result_and_exports_have_formats(shipped):
    rules = "".join(file.read_text() for file in sorted(ROOT.glob("rules/*.smk")))
    assert not re.findall(r'"results/[^"]*\{model\}', rules)  # no rule spells such a path
    made = re.findall(
        r"output:\n(?:\s+#.*\n)?\s+(?:\w+=(?:(?:update|report)\(\s+)*)?layout\.(\w+)\.pattern", rules
    )
    assert {getattr(layout, name) for name in made} >= {*layout.RESULTS.values()}
    path = "results/smoke/exported/smollm2-135m/gptq-w3-g64/wikipedia/seed-0/{}/export.json"
    for form in EXPORTS:
        check_path(path.format(form), shipped.names())
    with pytest.raises(ValueError, match=r"'gptq_v3' is no format of an export; .* did you mean 'gptq_v2'"):
        check_path(path.format("gptq_v3"), shipped.names())


def test_explain_reads_a_cells_path_and_names_all_that_it_stands_on(shipped):
    plan = Plan(shipped)
    with pytest.raises(ValueError, match="did you mean 'gptq-w"):
        explain.parse(GPTQ.replace("gptq-w3-g64", "gptq-w9"), plan)
    with pytest.raises(
        ValueError, match="not a cell's path; it looks like results/<grid>/evaluations/<model>"
    ):
        explain.parse("results/smoke/report.html", plan)
    cell = explain.parse(GPTQ.replace("/none/", "/prompt-50/"), plan)
    folder = "results/smoke/adapters/smollm2-135m/gptq-w3-g64/wikipedia/prompt-50/seed-0"
    assert f"{folder}/adapter_model.safetensors" in explain.inputs(plan, cell)


def test_every_path_that_a_plan_makes_can_be(shipped):
    plan = Plan(shipped)
    for grid in shipped.grids:
        for path in plan.artefacts(grid):
            for file in (path, f"./{path}", *companions(path)):
                check_path(file, shipped.names())
    check_path("results/smoke/report.html", shipped.names())
    check_path("results/smoke/tables/table1.html", shipped.names())


def test_every_cell_of_the_shipped_grids_can_be(shipped):
    plan = Plan(shipped)
    assert all(plan.check(cell) == cell for grid in shipped.grids for cell in plan.cells(grid))


@pytest.mark.parametrize("grid", ["bench", "paper"])
def test_every_adapter_stands_on_the_dense_model_too_and_every_idp_beside_its_members(shipped, grid):
    plan = Plan(shipped)
    cells = set(plan.cells(grid))
    for cell in cells:
        assert set(plan.members(cell)) <= cells, cell
    for adapter in plan.adapters(grid):
        assert adapter._replace(compressor="dense") in cells, adapter
    dynamic = {method for method in {c.method for c in cells} if shipped.methods[method].kind == "idp"}
    corpora = {"bench": "idp-50-corpora", "paper": "idp-50-hub-corpora"}[grid]
    assert {"idp-50-100", "idp-26-50-100", "idp-50-seeds", corpora} <= dynamic
    for cell in cells:
        if cell.method in dynamic:
            assert cell._replace(compressor="dense") in cells, cell


def test_a_reports_commands_carry_the_options_of_its_run(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = named_files([tmp_path / "mine.yaml", "/elsewhere/more.yaml", *files(root=tmp_path)])
    assert named == ["mine.yaml", "/elsewhere/more.yaml"]
    assert Plan(shipped).command("bench") == "snakemake"
    plan = Plan(
        shipped.model_copy(update={"grid": "bench", "blocks": ["core", "seeds"], "called_with": named})
    )
    asked = "snakemake --configfile mine.yaml /elsewhere/more.yaml"
    assert plan.command("bench") == f"{asked} --config grid=bench 'blocks=[core,seeds]' --"
    assert plan.command("smoke") == f"{asked} --"
    assert plan.command("smoke", "--force") == asked.replace("snakemake", "snakemake --force") + " --"
    assert plan.make("forecast", "bench") == (
        "make forecast GRID=bench BLOCKS=core,seeds 'CONFIG=mine.yaml /elsewhere/more.yaml'"
    )
    assert (
        foreseen(plan, "smoke").command == "make forecast GRID=smoke 'CONFIG=mine.yaml /elsewhere/more.yaml'"
    )


@pytest.mark.parametrize("entry", ["fetch_model", "fetch_benchmark"])
def test_what_checks_at_a_fetch_is_in_no_recipe(entry):
    """An edit of the scorer or of the configuration's types fetches no model and no benchmark again."""
    files = import_closure(f"jobs/{entry}.py", (), OPTIONAL)
    assert not [file for file in files if file.startswith(("evaluate/", "plan/schema", "plan/model_limits"))]


def test_an_entry_depends_on_the_folders_of_reports_that_it_reads():
    """By what it imports; an edit of a template judges nothing anew."""
    expected = {
        "find_answers": set(),
        "build_ledger": set(),
        "judge": set(),
        "plot_figure": {"paper"},
        "tabulate": {"paper", "templates"},
        "audit_paper": {"paper", "templates"},
        "draw_page": {"paper", "templates"},
        "report_grid": {"captions", "paper", "templates", "workflow.rst"},
    }
    for entry, folders in expected.items():
        assert {file.partition("/")[0] for file in contents.of_reports(entry)} == folders, entry
