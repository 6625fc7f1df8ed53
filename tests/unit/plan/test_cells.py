"""cells: which cells a grid asks for, on which copy and text each stands, and which are refused."""

from collections import Counter
from pathlib import Path

import pytest

from workflow_scripts.plan.config import files, load
from workflow_scripts.plan.forecast import foreseen
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan, plan_of

ROOT = Path(__file__).parents[3]


def test_smoke_has_fifteen_cells_and_eight_adapters(shipped):
    plan = Plan(shipped)
    assert len(plan.cells("smoke")) == 15
    assert len(plan.adapters("smoke")) == 8


def test_cells_without_recovery_stand_at_the_corpus_and_seed_that_drew_their_copy(shipped):
    config = shipped.dump()
    block = {
        "models": ["smollm2-135m"],
        "compressors": ["dense", "rtn-w3", "gptq-w3"],
        "corpora": ["wikipedia", "c4-sample"],
        "methods": ["none", "prompt-50"],
        "seeds": [0, 1],
    }
    config["grids"]["smoke"]["blocks"] = {"only": block}
    cells = Plan(load(config)).cells("smoke")
    for compressor in ("dense", "rtn-w3"):
        found = [(c.corpus, c.seed) for c in cells if c.compressor == compressor and c.method == "none"]
        assert found == [("none", 0)], compressor
    assert [(c.corpus, c.seed) for c in cells if c.compressor == "gptq-w3" and c.method == "none"] == [
        ("wikipedia", 0),
        ("wikipedia", 1),
        ("c4-sample", 0),
        ("c4-sample", 1),
    ]
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
