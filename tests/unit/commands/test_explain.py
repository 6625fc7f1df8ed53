"""explain: a cell's path is read, and everything that the cell stands on is named."""

from pathlib import Path

import pytest

from workflow_scripts.commands import explain
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]
GPTQ = "results/smoke/evaluations/smollm2-135m/gptq-w3-g64/wikipedia/none/seed-0.json"


def test_explain_reads_a_cells_path_and_names_all_that_it_stands_on():
    plan = Plan(load(read(*files(root=ROOT))))
    with pytest.raises(ValueError, match="did you mean 'gptq-w"):
        explain.parse(GPTQ.replace("gptq-w3-g64", "gptq-w9"), plan)
    with pytest.raises(
        ValueError, match="not a cell's path; it looks like results/<grid>/evaluations/<model>"
    ):
        explain.parse("results/smoke/report.html", plan)
    cell = explain.parse(GPTQ.replace("/none/", "/prompt-50/"), plan)
    folder = "results/smoke/adapters/smollm2-135m/gptq-w3-g64/wikipedia/prompt-50/seed-0"
    assert f"{folder}/adapter_model.safetensors" in explain.inputs(plan, cell)
