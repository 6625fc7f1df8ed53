"""Files that were cut short or changed, a full disk, a killed stage: named, refused or made again, never averaged."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workflow.conftest import Checkout
from workflow_scripts.files.artifacts import sha256_file

pytestmark = pytest.mark.slow

CELL = "results/tiny/evaluations/tiny/gptq-w3/text/lora-r2/seed-0.json"
ADAPTER = "results/tiny/adapters/tiny/gptq-w3/text/lora-r2/seed-0"
COMPRESSED = "results/tiny/compressed/tiny/gptq-w3/text/seed-0"
VERDICT = "results/tiny/verdict.json"
STAGES = {  # script -> what it makes
    "compress_model": f"{COMPRESSED}/compression.json",
    "train_adapter": f"{ADAPTER}/training.json",
    "evaluate_cell": CELL,
    "judge": VERDICT,
    "tabulate": "results/tiny/tables/table1.csv",
}


def content(checkout: Checkout, file: str):
    """A result without what differs from run to run (times, and the seal over them)."""
    if not file.endswith(".json"):
        return (checkout.folder / file).read_text()
    value = json.loads((checkout.folder / file).read_text())
    value.pop("manifest", None), value.pop("seconds", None), value.pop("peak_memory_mb", None)
    for layer in value.get("layers", ()):
        layer.pop("seconds")
    return value


def said(output: str, rule: str) -> str:
    """The last line that a failed job prints."""
    lines = [line for line in output.splitlines() if line.startswith(f"{rule}: ")]
    assert lines, output[-3000:]
    return lines[0]


def edit(file: Path, old: bytes, new: bytes) -> None:
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.unlink()  # never through a link into the sources
    file.write_bytes(data[: len(data) // 2])


EXTRA = b'"perplexity": {"more": {"word": 1, "token": 1, "bits_per_byte": 1, "windows": 1, "tokens": 1},'
TEXT, MODEL = "resources/corpora/text", "resources/models/tiny"
SAMPLES = CELL.replace(".json", ".samples.parquet")
# what is damaged and how, the job that must notice, what is deleted to have it made again
DAMAGES = {
    "edited evaluation": (CELL, lambda file: edit(file, b'"perplexity": {', EXTRA), "judge", CELL),
    "cut evaluation": (CELL, cut, "judge", CELL),
    "cut samples": (SAMPLES, cut, "judge", CELL),
    "cut adapter": (f"{ADAPTER}/adapter_model.safetensors", cut, "evaluate_cell", ADAPTER),
    "edited training record": (
        f"{ADAPTER}/training.json",
        lambda file: edit(file, b'"steps": ', b'"steps": 1'),
        "evaluate_cell",
        ADAPTER,
    ),
    "cut compressed weights": (f"{COMPRESSED}/weights.safetensors", cut, "evaluate_cell", COMPRESSED),
    "cut text": (f"{TEXT}/heldout.jsonl", cut, "evaluate_cell", TEXT),
    "cut model": (f"{MODEL}/model.safetensors", cut, "evaluate_cell", MODEL),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_again(copied, finished, damage):
    damaged, harm, rule, again = DAMAGES[damage]
    harm(copied.folder / damaged)
    target = VERDICT if rule == "judge" else CELL
    done = copied.snakemake("--force", target, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert Path(damaged).name in said(done.stdout, rule)
    made = copied.folder / again
    shutil.rmtree(made) if made.is_dir() else made.unlink()
    copied.snakemake(target)
    assert content(copied, target) == content(finished, target)


def test_reformatting_a_result_changes_nothing(copied):
    """The seal is over the content, not over its spaces."""
    file = copied.folder / CELL
    file.write_text(json.dumps(json.loads(file.read_text())))
    copied.snakemake("--force", VERDICT)


@pytest.mark.parametrize("stage", ["compress_model", "train_adapter", "evaluate_cell", "judge"])
def test_a_stage_that_is_killed_leaves_nothing_half_done(copied, finished, stage):
    target = STAGES[stage]
    others = {
        file: sha256_file(file) for file in (copied.folder / "results").rglob("*.json") if stage != "judge"
    }
    (copied.folder / target).unlink()
    run = subprocess.Popen(
        [*Checkout.COMMAND, "--cores", "1", target],
        cwd=copied.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    process = script(stage, copied.folder, run)
    time.sleep(1)
    process.kill()
    assert run.wait(60) == 1
    assert not (copied.folder / target).exists()
    assert not list(copied.folder.glob(f"{Path(target).parent}/.*.tmp/*.json"))
    copied.snakemake(target)
    assert content(copied, target) == content(finished, target)
    for file, digest in others.items():
        if file.parent != (copied.folder / target).parent:  # what the stage itself makes is made again
            assert sha256_file(file) == digest, file


def script(stage: str, folder: Path, run: subprocess.Popen) -> psutil.Process:
    """The process that runs the stage's script in `folder`."""
    while run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            try:
                if any(part.endswith(f".{stage}.py") for part in process.cmdline()):
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    raise AssertionError(run.stdout.read().decode())


@pytest.fixture
def small_disk(tmp_path):
    """A function that puts a disk of two megabytes in a folder's place and fills it; needs root."""
    mounted = []

    def mount(folder: Path) -> Path:
        kept = list(folder.iterdir()) if folder.exists() else []
        assert not kept, "only empty folders"
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "displaced", str(folder)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        mounted.append(folder)
        filler = folder / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as handle:
            while True:
                handle.write(bytes(4096))
        return filler

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("stage", ["compress_model", "train_adapter", "evaluate_cell", "tabulate"])
def test_a_full_disk_is_named_and_the_run_goes_on_after_space_is_freed(copied, finished, stage, small_disk):
    target = Path(STAGES[stage])
    place = copied.folder / target.parent
    shutil.rmtree(place)
    files = (file for file in (copied.folder / "results").rglob("*") if file.is_file())
    intact = {file: sha256_file(file) for file in files if not file.name.endswith(".lock")}
    # train_adapter places its folder whole: the disk is the folder above
    filler = small_disk(
        place.parent if stage == "train_adapter" and not list(place.parent.iterdir()) else place
    )
    done = copied.snakemake(str(target), check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "no space left on the disk of" in said(done.stdout, stage)
    assert not (copied.folder / target).exists()
    filler.unlink()
    copied.snakemake(str(target))
    assert content(copied, str(target)) == content(finished, str(target))
    assert {file: sha256_file(file) for file in intact} == intact
