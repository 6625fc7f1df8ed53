"""Verdicts from files: a planted truth is found, a missing control is admitted, a missing task is named."""

import pandas as pd
import pytest

from tests.unit.synthetic_results import CATALOGUE, COPIES, PAIR, judged, study, write_grid
from workflow_scripts.files.artifacts import check
from workflow_scripts.judge.components import Components
from workflow_scripts.judge.judged import NUMBERS
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results, samples_beside
from workflow_scripts.judge.statistics import holm
from workflow_scripts.judge.verdict import ONE_COPY
from workflow_scripts.report.landing import landing
from workflow_scripts.report.rendering import signed
from workflow_scripts.report.summary import cautions, covered, lines, points


def word(verdict, metric="accuracy"):
    return verdict["groups"][0]["metrics"][metric]["verdict"]["word"]


@pytest.mark.parametrize(
    ("expected", "gains", "loss"),
    [
        ("displaced", {"idp-50-100": 0.20, "lora-r4": 0.18}, 0.25),
        ("forgotten", {"idp-50-100": 0.0, "lora-r4": 0.2}, 0.25),
        ("both", {"idp-50-100": 0.10, "lora-r4": 0.24}, 0.25),
        ("unrecovered", {"idp-50-100": 0.0, "lora-r4": 0.0}, 0.25),
    ],
)
def test_a_planted_truth_gives_its_verdict(tmp_path, expected, gains, loss):
    verdict = judged(tmp_path, gains, losses={"gptq-w3": loss})
    for metric in ("accuracy", "choice_loglik", "bits_per_byte"):
        assert word(verdict, metric) == expected
    found = verdict["groups"][0]["metrics"]["accuracy"]["verdict"]
    assert found["of_one_copy"] and found["replicates"] == 1


def test_equal_answers_are_no_loss_if_there_are_enough_of_them(tmp_path):
    """No item changed; half an item a task more or less still has to be less than a point."""
    nothing, equal = {"idp-50-100": 0.0, "lora-r4": 0.0}, {"losses": {"gptq-w3": 0.0}, "noise": 0.0}
    assert word(judged(tmp_path / "many", nothing, items=200, **equal)) == "no_loss"
    few = judged(tmp_path / "few", nothing, items=10, **equal)
    assert word(few) == "undecided"
    assert word(few, "choice_loglik") == "no_loss"  # equal to the last digit


def test_the_interval_of_a_share_ends_at_0_and_1(tmp_path):
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": -0.98}, losses={"gptq-w3": 0.0}, dense=0.98)
    metric = judge_grid(
        read_results(write_grid(tmp_path, truth, 10, 0.0)), Question(PAIR), CATALOGUE, Resampling(300)
    )["groups"][0]["metrics"]["accuracy"]
    assert metric["dense"]["high"] == metric["compressed"]["high"] == 1
    assert metric["methods"]["lora-r4"]["value"]["low"] == 0


def test_what_an_adapter_also_gives_the_dense_model_is_no_recovery(tmp_path):
    truth = study("m", {"idp-50-100": 0.15, "lora-r4": 0.15}, losses={"gptq-w3": 0.25}, dense=0.6)
    truth |= {("m", "dense", "wikipedia", method, 0): 0.75 for method in PAIR.values()}
    verdict = judge_grid(
        read_results(write_grid(tmp_path, truth, 120, 0.02)), Question(PAIR), CATALOGUE, Resampling(1500)
    )
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    row = metric["methods"]["lora-r4"]
    assert row["gain"]["low"] > 0.05 and abs(row["recovered"]["value"]) < 0.04
    assert row["recovered"]["value"] == pytest.approx(row["gain"]["value"] - row["dense_gain"]["value"])
    assert metric["verdict"]["word"] == "unrecovered"


def test_a_harm_to_the_dense_model_earns_nothing_and_is_told(tmp_path):
    """The prompt brings nothing back and costs the dense model what it would have to bring back."""
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": 0.2}, losses={"gptq-w3": 0.25}, dense=0.75)
    truth |= {
        ("m", "dense", "wikipedia", "idp-50-100", 0): 0.5,
        ("m", "dense", "wikipedia", "lora-r4", 0): 0.75,
    }
    verdict = judge_grid(
        read_results(write_grid(tmp_path, truth, 200, 0.02)), Question(PAIR), CATALOGUE, Resampling(1500)
    )
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["verdict"]["word"] == "forgotten"
    row = metric["methods"]["idp-50-100"]
    assert row["recovered"] == row["gain"] and row["dense_gain"]["value"] < -0.2
    (harm,) = cautions(metric, PAIR)
    assert harm.startswith("idp-50-100 harms the dense model (-2") and f"  mind: {harm}" in lines(verdict)
    assert "harms the dense model (−2" in landing(verdict, {"description": ""}, None, "overview.html")


def test_a_word_about_the_smaller_part_of_a_loss_says_that_most_of_it_stays(tmp_path):
    """LoRA brings nothing back and the prompt 40 %: displaced by the rule, of the part that came back."""
    verdict = judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.0}, losses={"gptq-w3": 0.25}, items=200)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["verdict"]["word"] == "displaced"
    [most] = cautions(metric, PAIR)
    assert most.startswith("most of the loss stays: idp-50-100, the better of the pair, leaves +1")
    metric["verdict"] |= {"word": "undecided", "support": {"unrecovered": 0.1, "displaced": 0.9}}
    assert cautions(metric, PAIR) == [most]
    row = metric["methods"]["idp-50-100"]
    for ratio in (row["recovery"] | {"high": 0.6}, None):  # None: the interval of the loss holds 0
        row["recovery"] = ratio
        assert cautions(metric, PAIR) == []
        [open_] = cautions(metric | {"verdict": metric["verdict"] | {"word": "displaced"}}, PAIR)
        leaves = most.removeprefix("most of the loss stays: ").partition(";")[0]
        assert open_ == f"whether most of the loss stays can't be told: {leaves}"
    metric["verdict"] |= {"word": "undecided", "support": {"unrecovered": 0.9, "displaced": 0.1}}
    assert cautions(metric, PAIR) == []
    verdict = judged(
        tmp_path / "more", {"idp-50-100": 0.2, "lora-r4": 0.0}, losses={"gptq-w3": 0.25}, items=200
    )
    assert cautions(verdict["groups"][0]["metrics"]["accuracy"], PAIR) == []


def test_without_a_dense_control_the_verdict_is_unavailable_and_says_why(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.2, "lora-r4": 0.2}, control=False)
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["verdict"]["word"] == "unavailable"
    assert metric["verdict"]["reason"].startswith("no dense control for idp-50-100 and lora-r4")
    assert metric["methods"]["lora-r4"]["recovered"] is None
    assert cautions(metric, PAIR) == []
    assert "not controlled" in "\n".join(lines(verdict))


def test_identical_cells_give_p_1_and_no_difference_within_half_an_item_a_task(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.0, "lora-r4": 0.0}, noise=0.0)
    group = verdict["groups"][0]
    row = group["metrics"]["accuracy_all_tasks"]["methods"]["lora-r4"]
    assert row["gain"]["value"] == 0.0 and -0.01 < row["gain"]["low"] < 0 < row["gain"]["high"] < 0.01
    assert row["p"] == pytest.approx(1.0, abs=0.1) and row["detectable"] > 0
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


def test_ratio_residual_and_retention_follow_from_the_numbers(tmp_path):
    verdict = judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.2}, losses={"gptq-w3": 0.2})
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    row, loss = metric["methods"]["idp-50-100"], metric["loss"]["value"]
    assert row["recovery"]["value"] == pytest.approx(row["recovered"]["value"] / loss)
    assert row["recovery"]["low"] < 0.5 < row["recovery"]["high"]
    assert row["residual"]["value"] == pytest.approx(loss - row["recovered"]["value"])
    found = metric["verdict"]
    lora = found["numbers"]["lora"]["value"]
    assert found["retention"]["value"] == pytest.approx(found["numbers"]["prompt"]["value"] / lora)
    assert found["retention"]["low"] < found["retention"]["value"] < found["retention"]["high"]


def replicated(folder, seeds=(0, 1, 2), items=60, noise=0.02, skip=(), moved=0.0):
    """A displaced study of several copies, whose copies differ by `moved`."""
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.2}, losses={"gptq-w3": 0.25})
    for place in COPIES:
        at = truth[*place, 0]
        for seed in seeds:
            truth[*place, seed] = at + (moved * (seed - 1) if place[1] != "dense" else 0)
    results = read_results(write_grid(folder, truth, items, noise, skip=skip))
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(1500))
    check(verdict, "verdict", "verdict.json")
    return verdict


def test_replicates_are_covered_and_their_variance_has_a_part_of_its_own(tmp_path):
    group = replicated(tmp_path, items=300, moved=0.03)["groups"][0]
    metric = group["metrics"]["accuracy"]
    assert group["seeds"]["none"] == group["seeds"]["lora-r4"] == [0, 1, 2]
    assert (
        metric["loss_covers"] == metric["methods"]["lora-r4"]["recovered_covers"] == "items and 3 replicates"
    )
    loss, back = (metric["verdict"]["components"][name] for name in ("loss", "lora"))
    assert loss["replicates"] == pytest.approx(0.03 / 3**0.5, rel=0.2) and loss["count"] == 3
    assert back["replicates"] < loss["replicates"] / 2  # a copy's own level leaves the gain on it alone
    half = (metric["loss"]["high"] - metric["loss"]["low"]) / 2
    assert half == pytest.approx(Components.of_json(loss).half_width(), rel=0.25)
    assert metric["verdict"]["replicates"] == 3 and not metric["verdict"]["of_one_copy"]


def test_what_would_settle_it_names_the_shares_of_the_number_that_is_known_worst(tmp_path):
    metric = replicated(tmp_path, noise=0.3, moved=0.03)["groups"][0]["metrics"]["accuracy"]["verdict"]
    parts = metric["components"]
    worst = max(parts, key=lambda name: sum(parts[name][k] ** 2 for k in ("items", "replicates", "residual")))
    shares = [f"{100 * parts[worst][f'{k}_share']:.0f} %" for k in ("items", "replicates", "residual")]
    assert metric["settle"].endswith(
        "of the variance of {} items make {}, replicates {}, both together {}".format(NUMBERS[worst], *shares)
    )


def test_replicates_of_training_on_one_copy_say_that_they_cover_no_other_copy(tmp_path):
    """A checkpoint that somebody else made, and rtn, are one copy, which all seeds use."""
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.2}, losses={"rtn-w3": 0.25})
    for place in list(truth):
        if place[3] in PAIR.values():
            truth |= {(*place[:4], seed): truth[place] for seed in (1, 2)}
    results = read_results(write_grid(tmp_path, truth, 60, 0.02))
    judged = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(200))
    check(judged, "verdict", "verdict.json")
    [metric] = [group["metrics"]["accuracy"] for group in judged["groups"] if group["corpus"] == "wikipedia"]
    verdict = metric["verdict"]
    assert verdict["replicates"] == 3 and verdict["word"] == "displaced" and verdict["of_one_copy"]
    assert verdict["limits"].endswith(ONE_COPY)
    assert any("not another copy by the same compressor" in caution for caution in cautions(metric, PAIR))
    assert "3 replicates (training alone; the compressed copy is one)" in covered(
        judged["groups"], "accuracy"
    )
    copies = replicated(tmp_path / "copies")["groups"]
    assert ONE_COPY not in copies[0]["metrics"]["accuracy"]["verdict"]["limits"]
    assert "3 replicates (calibration text and training)" in covered(copies, "accuracy")


def test_gains_are_held_against_the_copy_that_they_were_made_on(tmp_path):
    """Copies that differ by 20 points: LoRA of copy 0 alone is no gain of 20 points over the mean of the copies."""
    skip = {("m", "gptq-w3", "wikipedia", "lora-r4", seed) for seed in (1, 2)}
    group = replicated(tmp_path, moved=0.2, skip=skip)["groups"][0]
    row = group["metrics"]["accuracy"]["methods"]["lora-r4"]
    assert row["gain"]["value"] == pytest.approx(0.2, abs=0.04) and row["gain_covers"] == "items"
    assert group["metrics"]["accuracy"]["verdict"]["replicates"] == 1
    assert group["tasks"]["lora-r4"]["piqa"]["difference"]["value"] == pytest.approx(0.2, abs=0.1)


def test_cells_of_other_weights_are_no_replicate(tmp_path):
    """Seed 1 of LoRA was trained on weights that were compressed anew since: its gain would hold both copies."""
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.2}, losses={"gptq-w3": 0.25})
    for place in COPIES:
        truth |= {(*place, seed): truth[*place, 0] for seed in (0, 1)}
    results = read_results(write_grid(tmp_path, truth, 20))
    for cell, evaluation in results.evaluations.items():
        old = (cell.compressor, cell.method, cell.seed) == ("gptq-w3", "lora-r4", 1)
        evaluation["manifest"]["inputs"] = {
            "compressed": f"{cell.compressor} {cell.seed if not old else 'old'}"
        }
        if cell.compressor == "dense":
            evaluation["manifest"]["inputs"] = {"compressed": "dense"}
    methods = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(50))["groups"][0]["metrics"][
        "accuracy"
    ]["methods"]
    assert methods["idp-50-100"]["gain_covers"] == "items and 2 replicates"
    assert methods["lora-r4"]["gain_covers"] == "items"


def test_a_control_of_one_seed_leaves_one_replicate_to_the_verdict(tmp_path):
    skip = {("m", "dense", "wikipedia", "lora-r4", seed) for seed in (1, 2)}
    metric = replicated(tmp_path, skip=skip)["groups"][0]["metrics"]["accuracy"]
    assert metric["methods"]["lora-r4"]["gain_covers"] == "items and 3 replicates"
    assert metric["methods"]["lora-r4"]["recovered_covers"] == "items"
    assert metric["verdict"]["of_one_copy"]


def test_only_informative_tasks_carry_the_verdict_and_the_dense_model_alone_decides_which(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 40, 0.02)
    dense = samples_beside(next(path for path in paths if "dense/none/none" in path))
    frame = pd.read_parquet(dense)
    frame.loc[frame["task"] == "webqs", "correct"] = False
    quarter = frame.index[frame["task"] == "sciq"][:14]  # 35 % of 40: its interval holds the chance of 25 %
    frame.loc[frame["task"] == "sciq", "correct"] = False
    frame.loc[quarter, "correct"] = True
    frame.to_parquet(dense, index=False)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(200))
    tasks = verdict["informative"]["m"]
    assert [task for task, row in tasks.items() if not row["informative"]] == ["sciq", "webqs"]
    assert tasks["sciq"]["chance"] == 0.25 and tasks["triviaqa"]["chance"] == 0.01
    metrics = verdict["groups"][0]["metrics"]
    assert (
        metrics["accuracy"]["absent_tasks"] == metrics["bits_per_byte"]["absent_tasks"] == ["sciq", "webqs"]
    )
    assert metrics["accuracy_all_tasks"]["absent_tasks"] == [] and len(metrics["accuracy"]["items"]) == 7


def test_the_number_of_verdicts_counts_groups_without_the_pair_too_since_they_may_have_no_loss(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}, losses={"gptq-w3": 0.2, "gptq-w4": 0.1})
    truth["m", "gptq-w8", "wikipedia", "none", 0] = 0.7
    results = read_results(write_grid(tmp_path, truth, 20))
    groups = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(100))["groups"]
    needed = [group["metrics"]["accuracy"]["verdict"]["needed"] for group in groups]
    assert needed == pytest.approx([1 - 0.025 / 3] * 3)


def test_what_r_could_show_counts_the_dense_control_too(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    truth |= {("m", "dense", "wikipedia", method, 0): 0.75 for method in PAIR.values()}  # h above 0
    paths = write_grid(tmp_path, truth, 120, 0.1)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(1500))
    row = verdict["groups"][0]["metrics"]["accuracy"]["methods"]["lora-r4"]
    error = (row["recovered"]["high"] - row["recovered"]["low"]) / (2 * 1.96)
    assert row["recovered_detectable"] == pytest.approx(2.8 * error, rel=0.1)
    assert row["recovered_detectable"] > row["detectable"]


def test_holm_counts_the_averages_of_a_table_and_its_tasks_apart(tmp_path):
    losses = {"gptq-w3": 0.2, "gptq-w4": 0.1, "sparsegpt-50": 0.15}
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.05, "lora-r4": 0.1}, losses=losses), 40, 0.05)
    groups = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(300))["groups"]
    families = {group["compressor"]: group["family"] for group in groups}
    two, one = {"averages": 4, "tasks": 36}, {"averages": 2, "tasks": 18}  # 2 methods of 9 tasks each
    assert families == {"gptq-w3": two, "gptq-w4": two, "sparsegpt-50": one}
    quantised = [group for group in groups if group["compressor"] != "sparsegpt-50"]
    averages = [row for g in quantised for row in g["metrics"]["accuracy_all_tasks"]["methods"].values()]
    tasks = [row for g in quantised for m in PAIR.values() for row in g["tasks"][m].values()]
    for rows in (averages, tasks):
        assert [row["p_holm"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]))


def test_a_metric_without_any_value_says_so(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 20)
    samples = samples_beside(next(p for p in paths if "gptq-w3" in p and "lora-r4" in p))
    pd.read_parquet(samples).assign(gold_loglik=float("nan")).to_parquet(samples, index=False)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(100))
    check(verdict, "verdict", "verdict.json")
    empty = verdict["groups"][0]["metrics"]["choice_loglik"]
    assert empty["verdict"]["word"] == "unavailable" and "share no item" in empty["verdict"]["reason"]
    assert empty["methods"] == {}


def test_a_task_that_one_cell_lacks_leaves_the_average_and_is_named(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 40)
    samples = samples_beside(next(p for p in paths if "gptq-w3" in p and "lora-r4" in p))
    frame = pd.read_parquet(samples)
    frame[frame["task"] != "piqa"].to_parquet(samples, index=False)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(200))
    metric = verdict["groups"][0]["metrics"]["accuracy"]
    assert metric["absent_tasks"] == ["piqa"]
    assert "without piqa" in "\n".join(lines(verdict))


def test_missing_cells_make_a_verdict_unavailable_not_wrong(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    for lost in [("m", "dense", "none", "none", 0), ("m", "gptq-w3", "wikipedia", "none", 0)]:
        folder = tmp_path / lost[1]
        verdict = judge_grid(
            read_results(write_grid(folder, truth, 10, skip={lost})),
            Question(PAIR),
            CATALOGUE,
            Resampling(100),
        )
        check(verdict, "verdict", "verdict.json")
        assert word(verdict) == "unavailable"
        assert any(lost[1] in cell for cell in verdict["groups"][0]["missing"])


def test_one_item_a_task_is_undecided(tmp_path):
    assert word(judged(tmp_path, {"idp-50-100": 0.1, "lora-r4": 0.1}, items=1)) == "undecided"


def test_the_same_files_give_the_same_verdict(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), 20))
    assert judge_grid(results, Question(PAIR), CATALOGUE, Resampling(300)) == judge_grid(
        results, Question(PAIR), CATALOGUE, Resampling(300)
    )
    assert judge_grid(results, Question(PAIR), CATALOGUE, Resampling(300)) != judge_grid(
        results, Question(PAIR), CATALOGUE, Resampling(300, 1)
    )


def test_a_difference_that_rounds_to_zero_has_no_minus_sign():
    nothing = {"value": -1e-17, "low": -1e-4, "high": 0.011}
    assert points(nothing) == "+0.0 points [+0.0, +1.1]"
    assert signed(-1e-17) == "+0.00"


def test_what_only_tables_and_figures_show_stands_in_the_verdict_too(tmp_path):
    truth = study("m", {"prompt-50": 0.1, "prompt-100": 0.05, "idp-50-100": 0.1, "lora-r4": 0.1})
    lost = ("m", "gptq-w3", "wikipedia", "prompt-100", 0)
    verdict = judge_grid(
        read_results(write_grid(tmp_path, truth, 20, skip={lost})), Question(PAIR), CATALOGUE, Resampling(100)
    )
    check(verdict, "verdict", "verdict.json")
    (dense,) = verdict["dense_groups"]
    assert (dense["compressor"], dense["corpus"]) == ("dense", "wikipedia")
    assert set(dense["metrics"]["accuracy"]["methods"]) == {
        "prompt-50",
        "prompt-100",
        "idp-50-100",
        "lora-r4",
    }
    assert [(c["compressor"], len(c["ways"]), c["missing"]) for c in verdict["choices"]] == [
        ("gptq-w3", 0, ["prompt-100 (seed 0)"]),
        ("dense", 3, []),
    ]
    # Of dense / none no change.
    assert len(verdict["scores"]) == len(truth) - 1 == len(verdict["changes"]) + 1
