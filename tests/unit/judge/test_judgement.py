"""Verdicts from files: a planted truth is found, a missing control is admitted, a missing task is named."""

import pandas as pd
import pytest

from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.files.artifacts import check
from workflow_scripts.judge.judgement import judge_grid
from workflow_scripts.judge.results import read_results, samples_beside
from workflow_scripts.judge.statistics import holm
from workflow_scripts.report.rendering import signed
from workflow_scripts.report.summary import cautions, lines, points


def judged(folder, gains, items=120, noise=0.02, resamples=1500, **options):
    paths = write_grid(folder, study("m", gains, **options), items, noise)
    verdict = judge_grid(read_results(paths), PAIR, CATALOGUE, resamples)
    check(verdict, "verdict", "verdict.json")
    return verdict


def word(verdict, metric="accuracy"):
    return verdict["groups"][0]["metrics"][metric]["verdict"]["word"]


@pytest.mark.parametrize(
    ("expected", "gains", "loss"),
    [
        ("displaced", {"idp-50-100": 0.20, "lora-r4": 0.18}, 0.25),
        ("forgotten", {"idp-50-100": 0.0, "lora-r4": 0.2}, 0.25),
        ("both", {"idp-50-100": 0.10, "lora-r4": 0.24}, 0.25),
        ("no_loss", {"idp-50-100": 0.0, "lora-r4": 0.0}, 0.0),
    ],
)
def test_a_planted_truth_gives_its_verdict(tmp_path, expected, gains, loss):
    verdict = judged(tmp_path, gains, losses={"gptq-w3": loss})
    assert word(verdict) == expected
    assert word(verdict, "gold_loglik") == expected


def test_what_an_adapter_also_gives_the_dense_model_is_no_recovery(tmp_path):
    truth = study("m", {"idp-50-100": 0.15, "lora-r4": 0.15}, losses={"gptq-w3": 0.25}, dense=0.6)
    truth |= {("m", "dense", "wikipedia", method, 0): 0.75 for method in PAIR.values()}
    verdict = judge_grid(read_results(write_grid(tmp_path, truth, 120, 0.02)), PAIR, CATALOGUE, 1500)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["methods"]["lora-r4"]["gain"]["low"] > 0.05
    assert abs(metric["methods"]["lora-r4"]["controlled"]["value"]) < 0.04
    assert metric["verdict"]["word"] in ("unrecovered", "undecided")


def test_a_harm_to_the_dense_model_is_told_beside_the_verdict_that_it_makes(tmp_path):
    """The prompt brings nothing back and costs the dense model what it would have to bring back: G says displaced."""
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": 0.2}, losses={"gptq-w3": 0.25}, dense=0.75)
    truth |= {
        ("m", "dense", "wikipedia", "idp-50-100", 0): 0.5,
        ("m", "dense", "wikipedia", "lora-r4", 0): 0.75,
    }
    verdict = judge_grid(read_results(write_grid(tmp_path, truth, 200, 0.02)), PAIR, CATALOGUE, 1500)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["verdict"]["word"] == "displaced" and metric["uncontrolled"]["word"] == "forgotten"
    harm, other = cautions(metric, PAIR)
    assert harm.startswith("idp-50-100 harms the dense model (-2") and "the compressed model gains" in harm
    assert other == "without the dense control the rule would say forgotten"
    assert f"  mind: {harm}" in lines(verdict)


def test_without_a_dense_control_the_verdict_is_undecided_and_says_why(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.2, "lora-r4": 0.2}, control=False)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["verdict"]["word"] == "undecided"
    assert metric["verdict"]["reason"].startswith("no dense control for idp-50-100 and lora-r4")
    assert metric["methods"]["lora-r4"]["controlled"] is None
    assert cautions(metric, PAIR) == []
    assert "not controlled" in "\n".join(lines(verdict))


def test_identical_cells_give_p_1_and_no_difference(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.0, "lora-r4": 0.0}, noise=0.0)
    group = verdict["groups"][0]
    row = group["metrics"]["accuracy"]["methods"]["lora-r4"]
    assert row["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert row["p"] == row["p_holm"] == 1.0
    assert row["smallest_detectable"] > 0
    assert all(
        task["p"] == 1.0 and task["gained"] == task["lost"] == 0
        for task in group["tasks"]["lora-r4"].values()
    )


def test_the_recovery_ratio_is_undefined_where_the_loss_is_not_significant(tmp_path):
    verdict = judged(
        tmp_path, {"idp-50-100": 0.0, "lora-r4": 0.0}, losses={"gptq-w3": 0.0, "sparsegpt-50": 0.3}
    )
    ratios = {
        g["compressor"]: g["metrics"]["accuracy"]["methods"]["lora-r4"]["recovery"] for g in verdict["groups"]
    }
    assert ratios["gptq-w3"] is None
    assert ratios["sparsegpt-50"]["low"] < 0.1


def test_the_ratio_is_gain_over_loss(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.2}, losses={"gptq-w3": 0.2})
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    row = metric["methods"]["idp-50-100"]
    assert row["recovery"]["value"] == pytest.approx(row["gain"]["value"] / metric["loss"]["value"])
    assert row["recovery"]["low"] < 0.5 < row["recovery"]["high"]


def test_three_seeds_are_covered_by_the_interval_and_two_are_not(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    truth |= {("m", "gptq-w3", "wikipedia", "lora-r4", seed): 0.6 for seed in (1, 2)}
    truth[("m", "gptq-w3", "wikipedia", "idp-50-100", 1)] = 0.6
    verdict = judge_grid(read_results(write_grid(tmp_path, truth, 30)), PAIR, CATALOGUE, 500)
    methods = verdict["groups"][0]["metrics"]["accuracy"]["methods"]
    assert methods["lora-r4"]["covers"] == "items and training seeds"
    assert methods["idp-50-100"]["covers"] == "items"
    assert methods["lora-r4"]["controlled_covers"] == "items"  # the dense control has one seed
    assert verdict["groups"][0]["seeds"]["lora-r4"] == [0, 1, 2]


def test_what_can_be_found_counts_the_variance_of_training_where_the_interval_does(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    truth |= {("m", "gptq-w3", "wikipedia", "lora-r4", seed): 0.5 + 0.15 * seed for seed in (0, 1, 2)}
    verdict = judge_grid(read_results(write_grid(tmp_path, truth, 200, 0.02)), PAIR, CATALOGUE, 1000)
    row = verdict["groups"][0]["metrics"]["accuracy"]["methods"]["lora-r4"]
    half = (row["gain"]["high"] - row["gain"]["low"]) / 2  # about 2 standard errors; 80 % power needs 2.8
    assert row["smallest_detectable"] > half


def test_what_g_could_show_counts_the_dense_control_too(tmp_path):
    row = judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.1}, noise=0.1)["groups"][0]["metrics"]["accuracy"]
    row = row["methods"]["lora-r4"]
    error = (row["controlled"]["high"] - row["controlled"]["low"]) / (2 * 1.96)
    assert row["controlled_smallest_detectable"] == pytest.approx(2.8 * error, rel=0.1)
    assert row["controlled_smallest_detectable"] > row["smallest_detectable"]


def test_holm_counts_every_test_of_a_table_and_no_other(tmp_path):
    losses = {"gptq-w3": 0.2, "gptq-w4": 0.1, "sparsegpt-50": 0.15}
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.05, "lora-r4": 0.1}, losses=losses), 40, 0.05)
    groups = judge_grid(read_results(paths), PAIR, CATALOGUE, 300)["groups"]
    families = {group["compressor"]: group["family"] for group in groups}
    assert families == {
        "gptq-w3": 40,
        "gptq-w4": 40,
        "sparsegpt-50": 20,
    }  # 2 methods, an average and 9 tasks each
    quantised = [group for group in groups if group["compressor"] != "sparsegpt-50"]
    rows = [row for g in quantised for row in g["metrics"]["accuracy"]["methods"].values()]
    rows += [row for g in quantised for m in PAIR.values() for row in g["tasks"][m].values()]
    assert [row["p_holm"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]))


def test_a_metric_without_any_value_says_so_and_lacks_no_key(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 20)
    samples = samples_beside(next(p for p in paths if "gptq-w3" in p and "lora-r4" in p))
    pd.read_parquet(samples).assign(gold_loglik=float("nan")).to_parquet(samples, index=False)
    group = judge_grid(read_results(paths), PAIR, CATALOGUE, 100)["groups"][0]
    whole, empty = (group["metrics"][name] for name in ("accuracy", "gold_loglik"))
    assert empty["verdict"]["word"] == "unavailable" and "share no item" in empty["verdict"]["reason"]
    assert empty.keys() == whole.keys()


def test_a_task_that_one_cell_lacks_leaves_the_average_and_is_named(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 20)
    samples = samples_beside(next(p for p in paths if "gptq-w3" in p and "lora-r4" in p))
    frame = pd.read_parquet(samples)
    frame[frame["task"] != "piqa"].to_parquet(samples, index=False)
    verdict = judge_grid(read_results(paths), PAIR, CATALOGUE, 200)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["absent_tasks"] == ["piqa"]
    assert "missing: piqa" in "\n".join(lines(verdict))


def test_missing_cells_make_a_verdict_unavailable_not_wrong(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    for lost in [("m", "dense", "none", "none", 0), ("m", "gptq-w3", "wikipedia", "none", 0)]:
        folder = tmp_path / lost[1]
        verdict = judge_grid(read_results(write_grid(folder, truth, 10, skip={lost})), PAIR, CATALOGUE, 100)
        check(verdict, "verdict", "verdict.json")
        assert word(verdict) == "unavailable"
        assert any(lost[1] in cell for cell in verdict["groups"][0]["missing"])


def test_one_item_a_task_is_undecided(tmp_path):
    assert word(judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.1}, items=1)) == "undecided"


def test_the_same_files_give_the_same_verdict(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 20))
    assert judge_grid(results, PAIR, CATALOGUE, 300) == judge_grid(results, PAIR, CATALOGUE, 300)
    assert judge_grid(results, PAIR, CATALOGUE, 300) != judge_grid(results, PAIR, CATALOGUE, 300, seed=1)


def test_a_difference_that_rounds_to_zero_has_no_minus_sign():
    nothing = {"value": -1e-17, "low": -1e-4, "high": 0.011}
    assert points(nothing) == "+0.0 points [+0.0, +1.1]"
    assert signed(-1e-17) == "+0.00"


def test_what_only_tables_and_figures_show_stands_in_the_verdict_too(tmp_path):
    truth = study("m", {"prompt-50": 0.1, "prompt-100": 0.05, "idp-50-100": 0.1, "lora-r4": 0.1})
    lost = ("m", "gptq-w3", "wikipedia", "prompt-100", 0)
    verdict = judge_grid(read_results(write_grid(tmp_path, truth, 20, skip={lost})), PAIR, CATALOGUE, 100)
    check(verdict, "verdict", "verdict.json")
    (dense,) = verdict["dense_groups"]
    assert (dense["compressor"], dense["corpus"]) == ("dense", "wikipedia")
    assert set(dense["accuracy"]["methods"]) == {"prompt-50", "prompt-100", "idp-50-100", "lora-r4"}
    assert [(c["compressor"], len(c["ways"]), c["missing"]) for c in verdict["choices"]] == [
        ("gptq-w3", 0, ["prompt-100 (seed 0)"]),
        ("dense", 3, []),
    ]
    assert (
        len(verdict["scores"]) == len(truth) - 1 == len(verdict["changes"]) + 1
    )  # of dense / none no change
