"""A seed is a whole replicate: each has a compressed copy of its own, on which its cells stand."""

import json

import pytest

from tests.workflow.conftest import jobs_of
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.recipes import Plan

FIRST, SECOND = (f"results/tiny/compressed/tiny/gptq-w3/text/seed-{seed}/compression.json" for seed in (0, 1))


@pytest.mark.slow
def test_more_seeds_make_more_copies_and_a_lost_cell_comes_back_alone(copied):
    config = copied.config()
    config["grids"]["tiny"]["blocks"]["copies"] = {
        "models": ["tiny"],
        "compressors": ["gptq-w3"],
        "corpora": ["text"],
        "methods": ["none", "prompt-5"],
        "seeds": [0, 1, 2],
    }
    copied.write_config(config)
    first = (copied.folder / FIRST).read_bytes()
    jobs = jobs_of(copied.snakemake().stdout)
    of_models = [job for job in jobs if job.startswith(("Compress", "Make", "Evaluate"))]
    place = "tiny gptq-w3 text"
    assert sorted(set(of_models)) == sorted(
        job
        for seed in (1, 2)
        for job in (
            f"Compress tiny with gptq-w3 on text (seed {seed})",
            f"Make prompt-5 (seed {seed}) for {place}",
            *(f"Evaluate {place} {method} (seed {seed})" for method in ("none", "prompt-5")),
        )
    )
    assert (copied.folder / FIRST).read_bytes() == first
    plan = Plan(load(read(*files(root=copied.folder))))
    hashes = {}
    for cell in (c for c in plan.cells("tiny") if c.compressor == "gptq-w3" and c.method == "none"):
        proof = json.loads((copied.folder / plan.compression(cell)).read_text())
        used = json.loads((copied.folder / cell.json).read_text())["manifest"]["inputs"]["compressed"]
        trained = json.loads((copied.folder / cell._replace(method="prompt-5").training).read_text())
        assert used == proof["weights_sha256"] == trained["base_sha256"], cell
        assert proof["calibration"]["seed"] == cell.seed
        hashes[cell.seed] = used
    assert len(set(hashes.values())) == 3
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout
    lost = next(c for c in plan.cells("tiny") if c.seed == 1 and c.method == "none")
    (copied.folder / lost.json).unlink()
    again = [job for job in jobs_of(copied.snakemake("--dry-run").stdout) if "tiny gptq-w3" in job]
    assert again == [f"Evaluate {place} none (seed 1)"]
    wrong = SECOND.replace("gptq-w3/text", "dense/none")
    refused = copied.snakemake("--dry-run", wrong, check=False)
    assert (
        refused.returncode and f"this is {wrong.replace('seed-1', 'seed-0')}; ask for that" in refused.stdout
    )
