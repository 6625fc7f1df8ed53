"""The forecast: jobs as the plan has them, costs that scale as the formulas say."""

from pathlib import Path

import pytest

from benchmarks import device
from workflow_scripts.__main__ import main
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.devices import device_table
from workflow_scripts.plan.forecast import (
    PACKED_BYTES,
    compare,
    evaluation_cost,
    forecast,
    foreseen,
    job_hours,
    load_constants,
    measured_seconds,
    summary,
    training_cost,
    unjudged,
    untaught,
)
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def plan():
    return Plan(load(read(*files(root=ROOT))))


def kinds(costs):
    return {kind: sum(cost.kind == kind for cost in costs) for kind in {cost.kind for cost in costs}}


def test_the_jobs_are_those_of_the_plan(plan):
    found = kinds(forecast(plan, "smoke", load_constants("cpu-2")))
    assert found["evaluate_cell"] == len(plan.cells("smoke"))
    assert found["train_adapter"] == len(plan.adapters("smoke"))
    assert found["compress_model"] == 3


def test_training_is_four_flop_per_parameter_and_token(plan):
    device = load_constants("a100-80g") | {"overhead": 0, "load": float("inf"), "forward": float("inf")}
    cell = plan.adapters("paper")[0]
    expected = 4 * plan.config.models[cell.model].parameters * 40_960_000 / device["train"]
    assert training_cost(plan, cell, device).seconds == pytest.approx(expected)


def test_an_untrained_prompt_costs_no_training(plan):
    device = load_constants("cpu-2")
    prompt = plan.adapters("bench")[0]._replace(method="prompt-100")
    placebo = prompt._replace(method="prompt-100-untrained")
    assert training_cost(plan, placebo, device).seconds < training_cost(plan, prompt, device).seconds / 2


def test_distillation_costs_a_forward_pass_of_the_dense_model_per_token(plan):
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "lora-r2", 0)
    device = load_constants("cpu-2")
    text, kl = (training_cost(plan, cell._replace(method=name), device) for name in ("lora-r2", "lora-r2-kl"))
    p, tokens = plan.config.models[cell.model].parameters, plan.training("bench", "lora-r2")["tokens"]
    assert kl.seconds - text.seconds == pytest.approx(2 * p * tokens / device["forward"])
    assert kl.memory > text.memory


def test_a_repair_costs_its_hessians_instead_of_training(plan):
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "eora-r4", 0)
    device = load_constants("cpu-2")
    repaired, untrained = (
        training_cost(plan, cell._replace(method=name), device)
        for name in ("eora-r4", "prompt-100-untrained")
    )
    tokens = plan.grid("bench").calibration.windows * plan.grid("bench").calibration.length
    p = plan.config.models[cell.model].parameters
    assert repaired.seconds - untrained.seconds == pytest.approx(6 * p * tokens / device["compress"])
    assert repaired.memory > untrained.memory
    filed = Plan(load(read(*files(root=ROOT)) | {"activation_memory": 0}))
    assert training_cost(filed, cell, device).memory < repaired.memory


def test_a_dense_compressor_leaves_nothing_on_disk(plan):
    costs = [c for c in forecast(plan, "smoke", load_constants("cpu-2")) if c.kind == "compress_model"]
    disk = {cost.name.split("/")[1]: cost.disk for cost in costs}
    assert disk["dense"] == 0
    assert disk["gptq-w3-g64"] == pytest.approx(134.5e6 * 3 / 8)


def test_the_summary_adds_up_and_prices(plan):
    costs, device = forecast(plan, "smoke", load_constants("cpu-2")), load_constants("cpu-2")
    lines = summary(costs, device, price=2.0)
    total = next(line for line in lines if line.startswith("total")).split()
    assert int(total[1]) == len(costs)
    hours = sum(c.seconds + device["startup"] for c in costs) / 3600
    assert job_hours(costs, device) == pytest.approx(hours)
    assert float(total[2]) == pytest.approx(hours, abs=0.005)
    assert float(lines[-2].split()[0]) == pytest.approx(hours / 2, abs=0.005)  # two jobs at a time
    assert lines[-1].startswith("at 2 per hour")
    assert "cpu-2" in lines[-2]


def test_forecast_beside_measured(plan):
    """An adapter and its cell have the same path below their folders: they must not be taken for each other."""
    costs = forecast(plan, "smoke", load_constants("cpu-2"))
    training = next(c for c in costs if c.kind == "train_adapter")
    cell = next(c for c in costs if c.kind == "evaluate_cell" and c.name == training.name)
    compression = next(c for c in costs if c.kind == "compress_model")
    took = {
        cost: {"manifest": {"seconds": factor * cost.seconds}}
        for cost, factor in ((training, 2), (cell, 4), (compression, 1))
    }
    rows = compare(
        costs,
        measured_seconds(
            {
                f"results/smoke/adapters/{training.name}/training.json": took[training],
                f"results/smoke/evaluations/{cell.name}.json": took[cell],
                f"results/smoke/compressed/{compression.name}/compression.json": took[compression],
            }
        ),
    )
    ratios = {row["kind"]: (row["jobs"], row["ratio"]) for row in rows}
    assert ratios["train_adapter"] == (1, pytest.approx(1 / 2))
    assert ratios["evaluate_cell"] == (1, pytest.approx(1 / 4))
    assert ratios["compress_model"] == (1, pytest.approx(1))
    assert ratios["total"][0] == 3
    took[cell]["manifest"]["taken_over"] = {"benchmark sciq": {}}
    assert not measured_seconds({f"results/smoke/evaluations/{cell.name}.json": took[cell]}), (
        "part of its work"
    )


def test_single_jobs_stand_beside_sums(plan):
    """One job at half and one at twice its forecast: the sums alone would say 0.8."""
    first, second = [
        c for c in forecast(plan, "smoke", load_constants("cpu-2")) if c.kind == "train_adapter"
    ][:2]
    assert first.seconds == second.seconds
    took = {(c.kind, c.name): f * c.seconds for c, f in ((first, 2), (second, 0.5))}
    row = compare([first, second], took)[0]
    assert (row["ratio"], row["lowest"], row["highest"]) == (pytest.approx(0.8), 0.5, 2)


def test_the_forecast_of_smoke_is_within_30_percent_of_a_real_run(plan):
    """Seconds of one run on 2 cores that did nothing else (the manifests of its jobs); it made no constant."""
    measured = {
        "compress_model": 166.1,
        "train_adapter": 698.6,
        "evaluate_cell": 599.6,
        "measure_similarity": 42.2,
    }
    costs = foreseen(plan, "smoke").costs
    for kind, seconds in measured.items():
        assert sum(c.seconds for c in costs if c.kind == kind) == pytest.approx(seconds, rel=0.3)


def test_packed_copies_count_on_a_cpu_up_to_what_is_packed(monkeypatch):
    """As PackedLinears makes them: one for scoring, two for training, none of a model that is too large."""
    from workflow_scripts.kernels import packed_linears

    monkeypatch.setattr("workflow_scripts.plan.forecast.KEPT", 1)  # else the heap differs too
    assert PACKED_BYTES == packed_linears.MOST_BYTES
    # a CPU's forecast has logits of their own
    plan = Plan(load(read(*files(root=ROOT), over={"models": {"smollm2-135m": {"vocabulary": 1}}})))
    cpu = load_constants("cpu-2")
    cell = next(
        cell for cell in plan.adapters("smoke") if cell.method.startswith("prompt")
    )  # merged into no copy
    gpu, size = cpu | {"gpu": True}, 4 * 1.345e8
    for cost, copies in ((training_cost, 2), (evaluation_cost, 1)):
        packed = cost(plan, cell, cpu).memory - cost(plan, cell, gpu).memory
        assert packed == pytest.approx(copies * size, rel=1e-4)
    large = plan.config.models["smollm2-135m"].model_copy(update={"parameters": 2e9})
    plan = Plan(plan.config.model_copy(update={"models": {"smollm2-135m": large}}))
    assert training_cost(plan, cell, cpu).memory == training_cost(plan, cell, gpu).memory


def test_every_device_has_every_constant_and_says_where_they_are_from():
    devices = device_table()["devices"]
    assert {frozenset(device) for device in devices.values()} == {frozenset(devices["cpu-2"])}
    assert all(device["source"] for device in devices.values())


def test_the_small_jobs_of_the_devices_benchmark_are_a_valid_grid():
    small, dense, trained = device.small_plan()
    assert small.cells("small") == [dense, trained] and small.adapters("small") == [trained]
    assert small.evaluate(dense)["evaluation"]["items"] == 1
    assert small.training("small", "lora-r2")["tokens"] == 32


def test_each_grid_names_its_device(plan, capsys):
    assert foreseen(plan, "smoke").device["name"] == foreseen(plan, "bench").device["name"] == "cpu-2"
    assert main(["forecast"]) == 0
    assert "a100-80g" in capsys.readouterr().out


def test_latency_jobs_are_forecast_where_the_grid_measures_them(plan):
    # Dense, two corpora.
    assert kinds(forecast(plan, "bench", load_constants("cpu-2")))["measure_latency"] == 3
    assert "measure_latency" not in kinds(forecast(plan, "smoke", load_constants("cpu-2")))


def test_chosen_blocks_are_forecast_alone(capsys):
    assert main(["forecast", "--grid", "bench", "--blocks", "figure-1"]) == 0
    assert "8 cells, 0 adapters" in capsys.readouterr().out
    assert main(["forecast", "--grid", "bench", "--blocks", "figure1"]) == 1
    assert "did you mean 'figure-1'?" in capsys.readouterr().err


def test_unknown_names_are_answered_with_the_known_ones(capsys):
    assert main(["forecast", "--grid", "papr", "--device", "cpu-2"]) == 1
    assert "smoke, bench, open-book, engines, truth, paper" in capsys.readouterr().err
    assert main(["forecast", "--grid", "smoke", "--device", "abacus"]) == 1
    assert "cpu-2, a100-80g" in capsys.readouterr().err
    assert main(["forecast", "--grid", "smoke", "--device", "cpu-2", "--price", "1.5"]) == 0


@pytest.mark.parametrize(("steps", "said"), [(1, "1 optimiser step,"), (3, "3 optimiser steps,"), (10, None)])
def test_a_training_that_can_teach_nothing_is_named(steps, said):
    config = read(*files(root=ROOT))
    # A window less than a whole step is one more step.
    config["training"]["bench"]["tokens"] = steps * 8 * 256
    found = untaught(Plan(load(config)), "bench")
    if said is None:
        assert found == []
        return
    assert len(found) == 1 and found[0].startswith(
        "training.bench.tokens: lora-r2, prompt-50, prompt-100, ptune-50"
    )
    assert f" get {said} too few to learn anything" in found[0] and "20,480 tokens make 10" in found[0]
    assert "prompt-100-untrained" not in found[0] and "eora" not in found[0]
    assert foreseen(Plan(load(config)), "bench").warnings == found


def test_the_shipped_grids_can_teach():
    plan = Plan(load(read(*files(root=ROOT))))
    assert {grid: untaught(plan, grid) for grid in plan.config.grids} == {
        grid: [] for grid in plan.config.grids
    }


def test_a_grid_that_can_give_no_verdict_is_named_before_it_runs():
    def of(block, **changed):
        config = read(*files(root=ROOT), over={"grid": "bench", "blocks": ["core"]})
        config["grids"]["bench"]["blocks"]["core"] |= changed
        plan = Plan(load(config | {"blocks": [block]}))
        assert foreseen(plan, "bench").warnings == untaught(plan, "bench") + unjudged(plan, "bench")
        return unjudged(plan, "bench")

    assert of("core") == of("figure-1") == []  # without recovery nobody expects a verdict
    place = "smollm2-135m / gptq-w3-g64 / wikipedia"
    said = f"grids.bench.pair: no verdict can be given on {place}, since no block that counts has "
    assert of("core", methods=["none", "lora-r2"], compressors=["dense", "gptq-w3-g64"]) == [
        f"{said}idp-50-100 on gptq-w3-g64 or idp-50-100 on dense"
    ]
    assert of("core", compressors=["gptq-w3-g64"])[0].startswith(f"{said}none on dense or ")
    assert of("core", methods=["none", "prompt-50"]) == [
        "grids.bench.pair: no block that counts has idp-50-100 or lora-r2 on a compressed model, so no verdict is given"
    ]
