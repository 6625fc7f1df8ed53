"""Kinds of results: what chooses code is in them, sizes are not, so that evidence holds for what it shows."""

from pathlib import Path

import pytest

from tests.unit.plan.test_upgrades import CELL, make, record
from workflow_scripts.commands import adopt
from workflow_scripts.files.artifacts import read_json, recorded_digest, write_json
from workflow_scripts.plan.adopted import equivalences, older_record, record_path
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import EVALUATION
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.upgrades import older_results

ROOT = Path(__file__).parents[3]
DENSE = CELL._replace(compressor="dense")


@pytest.fixture
def raw():
    config = read(*files(root=ROOT))
    blocks = config["grids"]["smoke"]["blocks"]
    blocks["trained"] = {"models": [CELL.model], "compressors": ["dense"], "corpora": ["wikipedia"]}
    blocks["trained"] |= {"methods": ["lora-r2"], "seeds": [0, 1]}
    return config


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def kinds(config: dict) -> tuple[str, str, str, str]:
    plan = Plan(load(config))
    return (
        plan.compressor_kind(CELL.compressor),
        plan.adapter_kind(CELL),
        plan.evaluation_kind(CELL),
        plan.similarity_kind(CELL),
    )


def changed(raw: dict, path: str, value: object) -> list[bool]:
    """Whether the kinds of a compressed model, an adapter, an evaluation and a similarity change with a key."""
    before, place = kinds(raw), raw
    *keys, last = path.split("/")
    for key in keys:
        place = place[key]
    place[last] = value
    return [one != other for one, other in zip(before, kinds(raw), strict=True)]


@pytest.mark.parametrize(
    ("path", "value", "which"),
    [
        ("compressors/gptq-w3-g64/act_order", False, "1111"),
        ("compressors/gptq-w3-g64/symmetric", True, "1111"),
        ("compressors/gptq-w3-g64/group_size", None, "1111"),
        ("compressors/gptq-w3-g64", {"algorithm": "rtn", "bits": 3}, "1111"),
        ("compressors/gptq-w3-g64/clip", "hessian", "1000"),
        ("compressors/gptq-w3-g64/forward", "bf16", "1000"),
        ("compressors/gptq-w3-g64/true_sequential", True, "1000"),
        ("methods/lora-r2/start", "eora", "0100"),
        ("methods/lora-r2/training", {"objective": "kl_dense"}, "0100"),
        ("methods/lora-r2/layers", [0], "0100"),
        ("methods/lora-r2", {"kind": "peft", "peft_type": "IA3"}, "0111"),
        ("training/smoke/precision", "bf16", "0100"),
        ("training/smoke/schedule", "constant", "0100"),
        ("grids/smoke/evaluation/precision", "bf16", "0010"),
        ("models/smollm2-135m/chat", True, "0010"),
        ("tasks/arc_easy/num_fewshot", 5, "0010"),
    ],
)
def test_what_chooses_code_is_in_the_kind(raw, path, value, which):
    assert changed(raw, path, value) == [letter == "1" for letter in which]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("compressors/gptq-w3-g64/bits", 4),
        ("compressors/gptq-w3-g64/group_size", 32),
        ("compressors/gptq-w3-g64/damping", 0.1),
        ("methods/lora-r2/rank", 8),
        ("methods/lora-r2/alpha", 1.5),
        ("training/smoke/tokens", 20480),
        ("grids/smoke/evaluation/items", 7),
    ],
)
def test_sizes_are_not(raw, path, value):
    assert changed(raw, path, value) == [False] * 4


def test_idps_that_choose_otherwise_are_kinds_of_their_own(raw):
    plan = Plan(load(raw))
    names = ("idp-50-100", "idp-50-100-calibrated", "idp-50-100-learned")
    assert len({plan.evaluation_kind(CELL._replace(method=name)) for name in names}) == 3


def test_adapters_of_other_text_are_kinds_of_their_own_and_their_cells_are_not(raw):
    plan = Plan(load(raw))
    texts = ("prompt-100", "prompt-100-triviaqa-even", "prompt-50-science")
    cells = [CELL._replace(grid="bench", method=name) for name in texts]
    assert len({*map(plan.adapter_kind, cells)}) == 3 and len({*map(plan.evaluation_kind, cells)}) == 1


def test_a_checkpoint_of_somebody_else_is_a_kind_by_its_name(raw):
    """Its format is known when it is read; of a copy that is taught here it is."""
    for name in ("theirs", "others"):
        raw["compressors"][name] = {"algorithm": "external", "source": "local", "path": f"/{name}"}
    plan = Plan(load(raw))
    assert plan.compressor_kind("theirs") != plan.compressor_kind("others")
    assert plan.compressor_kind("awq-w4-g64") != plan.compressor_kind("fp8")
    assert plan.compressor_kind("truth-locked") == plan.compressor_kind("truth-half")


def test_evidence_of_dense_cells_does_not_stand_for_compressed_ones(raw):
    """EoRA's factors are zero on dense weights, whatever the code does."""
    plan = Plan(load(raw))
    make(plan, "0")
    found = older_results(plan, "smoke")
    record(found, None)
    record([result for result in found if result.names.get("compressor") == "dense"], "smoke")
    plan = Plan(plan.config)
    assert plan.train(CELL)["code"] == plan.train(DENSE)["code"]
    assert plan.train_recipe(DENSE) == recorded_digest(DENSE.training, "recipe")
    assert CELL.training in {result.path for result in older_results(plan, "smoke")}


def test_though_dense_cells_are_cheaper_one_of_each_kind_is_made_again(raw):
    plan = Plan(load(raw))
    make(plan, "0")
    older = [
        r for r in older_results(plan, "smoke") if r.artefact == EVALUATION and r.names["method"] == "lora-r2"
    ]
    assert {(r.names["compressor"], r.names["seed"]) for r in older} > {("dense", "0"), ("dense", "1")}
    samples = adopt._spread(older, 2, lambda _: 0)
    assert {sample.kind for sample in samples} == {result.kind for result in older}
    assert len(samples) == 3


def test_a_second_sample_has_other_names_than_the_first(raw):
    plan = Plan(load(raw))
    make(plan, "0")
    one = next(result for result in older_results(plan, "smoke") if result.path == CELL.json)
    same = [one._replace(path=str(seed), names=one.names | {"seed": str(seed)}) for seed in range(3)]
    other = one._replace(path="other", names=one.names | {"compressor": "gptq-w4-g64", "seed": "7"})
    assert [result.path for result in adopt._spread([*same, other], 3, lambda _: 0)] == ["0", "other", "1"]


def test_a_record_whose_kinds_name_no_compressor_does_not_count_and_is_named(raw):
    plan = Plan(load(raw))
    make(plan, "0")
    record(older_results(plan, "smoke"), "smoke")
    path = Path(record_path("smoke"))
    assert equivalences("smoke") and older_record("smoke") is None
    value = read_json(path)
    write_json(path, {"equivalences": value["equivalences"], "manifest": {}}, "adopted")
    assert equivalences("smoke") == []
    assert f"{path} does not count" in older_record("smoke")
    assert older_record(None) is None
