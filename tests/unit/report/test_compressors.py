"""The table of compressed models: figures of compression.json beside those of the cell without recovery."""

import csv
import io

import pytest

from tests.unit.synthetic_results import study, write_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.compressors import RENDERERS, compressors, of_checkpoint

SETTINGS = {
    "gptq-w3": {"algorithm": "gptq", "bits": 3},
    "sparsegpt-50": {"algorithm": "sparsegpt", "sparsity": 0.5},
    "gptq-w3-optimum": {"algorithm": "gptq", "bits": 3, "engine": "optimum"},
    "dense": {"algorithm": "dense"},
}


def record(errors, seconds):
    layers = [{"error": error, "sparsity": 0.25, "seconds": seconds} for error in errors]
    return {"layers": layers, "effective_bits": 3.5, "manifest": {"seconds": 100.0}}


@pytest.fixture
def table(tmp_path):
    paths = write_grid(tmp_path, study("m", {}, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1}), items=20)
    records = {
        "results/synthetic/compressed/m/dense/none/seed-0/compression.json": record([], 0),
        "results/synthetic/compressed/m/gptq-w3/wikipedia/seed-0/compression.json": record([0.1, 0.3], 1.5),
        "results/synthetic/compressed/m/gptq-w3-optimum/wikipedia/seed-0/compression.json": record(
            [0.2], 2.0
        ),
    }
    results = read_results(paths)
    cell = results.first("m", "gptq-w3", "wikipedia", "none")
    return compressors(results, records, SETTINGS), results.evaluations[cell]


def test_each_compressed_model_has_its_figures(table):
    table, evaluation = table
    assert list(table["compressor"]) == ["gptq-w3", "gptq-w3-optimum"]
    assert list(table["engine"]) == ["own", "optimum"]
    own = table.iloc[0]
    assert own["layer_error"] == pytest.approx(0.2) and own["solve_seconds"] == 3
    assert (own["bits"], own["zeros"], own["job_seconds"]) == (3.5, 0.25, 100)
    accuracies = [task["acc"] for task in evaluation["tasks"].values()]
    assert own["accuracy"] == pytest.approx(sum(accuracies) / len(accuracies))
    for corpus, values in evaluation["perplexity"].items():
        assert own[f"ppl/{corpus}"] == values["token"]
    assert table.iloc[1][["accuracy"]].isna().all()  # its cell was not run


def test_every_format_has_every_row_and_leaves_missing_numbers_empty(table):
    table, _ = table
    rendered = {name: render(table, "g") for name, render in RENDERERS.items()}
    rows = list(csv.DictReader(io.StringIO(rendered["csv"])))
    assert [row["accuracy"] == "" for row in rows] == [False, True]
    assert "| m | gptq-w3-optimum | wikipedia | optimum | 3.50 | 25.0 | 20.00 |" in rendered["md"]
    assert "| — | 2.0 | 100 |" in rendered["md"]
    assert (
        ">optimum<" in rendered["html"] and "nan" not in rendered["html"] and "http" not in rendered["html"]
    )


def test_a_checkpoint_of_somebody_else_says_what_it_is(tmp_path):
    paths = write_grid(tmp_path, study("m", {}, losses={"awq": 0.2, "gptq-w3": 0.1}), items=20)
    about = {
        "format": "awq",
        "bits": "4",
        "runtime_quantisation": "KV cache, 8 bits",
        "simulated": "activations, 8 bits",
        "bits_per_weight": 7.25,
    }
    about |= {"equal": ["a", "b", "c"], "compared": 4}
    records = {
        "results/synthetic/compressed/m/awq/none/seed-0/compression.json": record([None], 0)
        | {"checkpoint": about},
        "results/synthetic/compressed/m/gptq-w3/wikipedia/seed-0/compression.json": record([0.1], 1.5),
    }
    settings = SETTINGS | {"awq": {"algorithm": "external"}}
    table = compressors(read_results(paths), records, settings)
    assert list(table["engine"]) == ["external", "own"] and table["layer_error"].isna().tolist() == [
        True,
        False,
    ]
    rendered = {name: render(table, "g") for name, render in RENDERERS.items()}
    said = "awq (4); at run time: activations, 8 bits; not reproduced: KV cache, 8 bits"
    assert f"| m | awq | none | external | {said} | 3.50 | 7.25 | 75.0 | 25.0 | — |" in rendered["md"]
    assert "| m | gptq-w3 | wikipedia | own |  | 3.50 | — | — | 25.0 | 10.00 |" in rendered["md"]
    assert "activations, 8 bits" in rendered["html"] and "nan" not in rendered["html"]
    assert all("engine external" in rendered[name] for name in ("md", "html"))
    about |= {"equal": [], "other_settings": ["rms_norm_eps", "sliding_window"], "distilled": False}
    rendered["md"] = RENDERERS["md"](compressors(read_results(paths), records, settings), "g")
    said += "; no tensor is the dense model's"
    said += "; config.json has another rms_norm_eps, sliding_window than the dense model's"
    assert f"| {said} | 3.50 | 7.25 | 0.0 |" in rendered["md"]


def test_a_checkpoint_that_is_the_dense_model_is_called_so():
    about = {"format": "plain", "bits": "bfloat16", "runtime_quantisation": None, "bits_per_weight": 16.0}
    about |= {"distilled": False, "compared": 3}
    shown = of_checkpoint(about | {"equal": ["a", "b", "c"]})
    assert shown["format"] == "plain (bfloat16); every tensor that was compared is the dense model's"
    assert of_checkpoint(about | {"equal": ["a", "b"]})["format"] == "plain (bfloat16)"


def test_a_grid_without_compressed_models_says_so(tmp_path):
    paths = write_grid(tmp_path, study("m", {}), items=5)
    empty = compressors(read_results(paths), {}, SETTINGS)
    rendered = {name: render(empty, "g") for name, render in RENDERERS.items()}
    assert "No model of this grid was compressed yet" in rendered["html"]
    assert rendered["csv"].startswith("model,compressor,corpus,engine,bits")
    assert rendered["md"].startswith("# Compressed models")


def test_several_copies_of_a_model_have_a_row_each_with_its_seed(tmp_path):
    truth = study("m", {}, losses={"gptq-w3": 0.2}) | {("m", "gptq-w3", "wikipedia", "none", 1): 0.2}
    folder = "results/synthetic/compressed/m/gptq-w3/wikipedia"
    records = {f"{folder}/seed-{seed}/compression.json": record([0.1 + seed], 1.0) for seed in (0, 1)}
    table = compressors(read_results(write_grid(tmp_path, truth, items=20)), records, SETTINGS)
    assert list(table["seed"]) == [0, 1] and list(table["layer_error"]) == [0.1, 1.1]
    assert table["accuracy"][0] - table["accuracy"][1] > 0.2
    rendered = {name: render(table, "g") for name, render in RENDERERS.items()}
    assert rendered["csv"].startswith("model,compressor,corpus,seed,engine,bits")
    assert "| m | gptq-w3 | wikipedia | 1 | own |" in rendered["md"] and ">seed<" in rendered["html"]


def test_a_model_with_a_bos_has_both_protocols_side_by_side(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {}, losses={"gptq-w3": 0.2}), items=5))
    for evaluation in results.evaluations.values():
        figure = evaluation["perplexity"]["wikipedia"]
        both = {"windowed": figure | {"token": 15.08}, "reference": figure | {"token": 35.74}}
        evaluation["perplexity"]["wikipedia"] = both
    records = {"results/synthetic/compressed/m/gptq-w3/wikipedia/seed-0/compression.json": record([0.1], 1)}
    table = compressors(results, records, SETTINGS)
    assert table.iloc[0][["ppl/wikipedia", "ppl reference/wikipedia"]].tolist() == [15.08, 35.74]
    shown = RENDERERS["md"](table, "g")
    assert "| ppl wikipedia | ppl reference wikipedia |" in shown and "| 15.08 | 35.74 |" in shown
    assert "windowed (the model's BOS before every window)" in shown
