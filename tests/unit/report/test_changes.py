"""Changed answers: flips, other answers and divergence, against numbers worked out by hand."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import rel_entr, softmax

from tests.unit.synthetic_results import study, write_grid
from workflow_scripts.judge.changes import changes as compared
from workflow_scripts.judge.changes import compare, divergence
from workflow_scripts.judge.results import read_results, samples_beside
from workflow_scripts.report import compressors
from workflow_scripts.report.changes import RENDERERS, changes


def test_divergence_is_that_of_the_choices_probabilities():
    reference, other = np.array([-1.0, -2.0, -4.5]), np.array([-3.0, -1.0, -1.2])
    assert divergence(reference, other) == pytest.approx(rel_entr(softmax(reference), softmax(other)).sum())
    assert divergence(reference, reference + 700) == pytest.approx(0, abs=1e-12)
    assert divergence(np.array([0.0, -2000.0]), np.array([-5.0, -5.0])) == pytest.approx(np.log(2))


def samples(correct, predictions, logliks) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples([("t", f"h{i}", 0) for i in range(len(correct))])
    return pd.DataFrame(
        {"correct": correct, "prediction": predictions, "choice_logliks": logliks}, index=index
    )


def test_a_wrong_answer_that_becomes_another_wrong_answer_is_changed_and_no_flip():
    dense = samples([True, False, False, True], list("abcd"), [[-1, -1], [-1, -1], [-1, -1], None])
    cell = samples([False, True, False, True], list("xbyd"), [[-1, -1], [-1, -2], [-1, -1], None])
    found = compare(dense, cell.iloc[::-1])
    assert found["flips"].tolist() == [1, 1, 0, 0]
    assert found["changed"].tolist() == [1, 0, 1, 0]
    expected = [0, rel_entr([0.5, 0.5], softmax([-1.0, -2.0])).sum(), 0, np.nan]
    np.testing.assert_allclose(found["kl"], expected, atol=1e-12)


@pytest.fixture
def frame(tmp_path) -> pd.DataFrame:
    paths = write_grid(tmp_path, study("m", {"lora-r4": 0.1}), items=20)
    cell = next(p for p in paths if "gptq-w3" in p and "lora-r4" in p)
    dense = next(p for p in paths if "/dense/" in p and "/none/" in p)
    items = pd.read_parquet(samples_beside(dense))
    piqa = items.index[items["task"] == "piqa"]
    items.loc[piqa[:5], "correct"] = ~items.loc[piqa[:5], "correct"]
    items.loc[piqa[:8], "prediction"] = "another"
    items.at[piqa[0], "choice_logliks"] = [-2.0, -1.0, -3.0, -4.0]
    items.to_parquet(samples_beside(cell), index=False)
    return changes(compared(read_results(paths), 200))


def test_each_cell_is_compared_with_the_dense_model_task_by_task(frame):
    assert ("dense", "none") not in set(zip(frame["compressor"], frame["method"]))
    mine = frame.query("compressor == 'gptq-w3' and method == 'lora-r4'").set_index("task")
    assert mine.loc["piqa", ["flips", "changed"]].tolist() == [0.25, 0.4]
    assert mine.loc["piqa", "flips_low"] < 0.25 < mine.loc["piqa", "flips_high"]
    kl = rel_entr(softmax([-1.0, -2.0, -3.0, -4.0]), softmax([-2.0, -1.0, -3.0, -4.0])).sum() / 20
    assert mine.loc["piqa", "kl"] == pytest.approx(kl)
    assert mine.loc["sciq", ["flips", "changed", "kl"]].tolist() == [0, 0, 0]
    assert np.isnan(mine.loc["triviaqa", "kl"])
    assert mine.loc["all", "flips"] == pytest.approx(0.25 / 9)
    assert mine.loc["all", "kl"] == pytest.approx(kl / 8)  # triviaqa has no choices
    assert mine.loc["all", "n"] == 180
    assert mine.loc["all", "flips_low"] <= mine.loc["all", "flips"] <= mine.loc["all", "flips_high"]


def test_every_format_shows_the_means_and_leaves_missing_numbers_empty(frame):
    rendered = {name: render(frame, "g") for name, render in RENDERERS.items()}
    rows = list(csv.DictReader(io.StringIO(rendered["csv"])))
    assert len(rows) == len(frame)
    assert all((row["kl"] == "") == (row["task"] == "triviaqa") for row in rows)
    assert "| lora-r4 | 0 | 180 | 2.78 | 4.44 | " in rendered["md"]
    assert ">4.44<" in rendered["html"] and not re.search(r">\s*nan", rendered["html"])
    assert "<script>" in rendered["html"] and "http" not in rendered["html"]


def test_without_the_dense_cell_nothing_is_compared_and_the_page_says_so(tmp_path):
    paths = write_grid(tmp_path, {("m", "gptq-w3", "wikipedia", "none", 0): 0.5}, items=4)
    frame = changes(compared(read_results(paths), 50))
    assert frame.empty
    assert "No cell can be compared" in RENDERERS["html"](frame, "g")


@pytest.mark.parametrize("renderers", [RENDERERS, compressors.RENDERERS])
def test_what_has_no_result_is_said_under_the_table(renderers, tmp_path):
    truth = {("m", "dense", "none", "none", 0): 0.6, ("m", "gptq-w3", "wikipedia", "none", 0): 0.5}
    results = read_results(write_grid(tmp_path, truth, items=4, skip={list(truth)[1]}))
    changed = renderers is RENDERERS
    table = changes(compared(results, 50)) if changed else compressors.compressors(results, {}, {})
    for kind in ("md", "html"):
        text = renderers[kind](table, "g", results.missing_in_words())
        assert "1 of 2 planned cells have no result: m / gptq-w3 / wikipedia (1)." in text
        assert "planned cells" not in renderers[kind](table, "g")
