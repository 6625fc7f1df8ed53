"""The smoke grid on its real model, as `make demo` runs it, but through `snakemake --profile slurm`.

Half an hour on two cores. `make test-slurm` asks for it, SMOKE=dense for that block of it alone; SMOKE= leaves it out.
Sources are taken from `resources/` of this checkout, else from PyPI.
"""

import json
import os
import shutil

import pytest

from tests.slurm.conftest import accounted, clone
from tests.workflow.conftest import ROOT
from workflow_scripts.commands.status import planned
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.recipes import Plan

ASKED = os.environ.get("SMOKE", "")


@pytest.mark.skipif(not ASKED, reason="asked for by SMOKE=1, as in make test-slurm")
def test_the_smoke_grid_runs_on_the_cluster_down_to_its_report(cluster, tmp_path):
    checkout = clone(tmp_path / "clone", read(*files(root=ROOT)))
    chosen = None if ASKED == "1" else ASKED.split(",")
    plan = Plan(load(checkout.config() | {"grid": "smoke", "blocks": chosen}))
    for source in plan.artefacts("smoke"):
        if source.startswith("resources/") and (ROOT / source).exists():
            shutil.copytree((ROOT / source).parent, (checkout.folder / source).parent)
    checkout.settings = ("grid=smoke", *([f"blocks=[{ASKED}]"] if chosen else []))
    checkout.run("--jobs", str(os.cpu_count()), seconds=6 * 3600)

    for cell in plan.cells("smoke"):
        evaluation = json.loads((checkout.folder / cell.json).read_text())
        assert evaluation["manifest"]["recipe"] == plan.evaluate_recipe(cell)
    assert (checkout.folder / "results/smoke/report.html").exists()
    jobs = accounted(checkout.folder)
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    assert sum(job["Partition"] == "gpu" for job in jobs) == len(planned(plan, "smoke"))
