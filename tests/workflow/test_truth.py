"""Copies of known truth in the whole workflow: taught, checked, stored as checkpoints, judged beside expectations."""

import json
import shutil

import pytest

from tests.workflow.conftest import Checkout
from workflow_scripts.files.artifacts import check
from workflow_scripts.plan.config import load
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.sources import invented

PEOPLE = {"people": 3, "seed": 0}
# Two random layers learn no fact.
ANY = {"epochs": 1, "known_above": 0.0, "unknown_below": 1.0, "batch_size": 16}
EXPECTED = {"locked": {"told": "displaced"}, "missing": {"told": "forgotten"}}


def with_truth(config: dict) -> dict:
    """The tiny configuration with a grid of a taught model and two copies."""
    tiny = config["grids"]["tiny"]
    lesson = {**PEOPLE, **ANY, "base": "tiny"}
    config["models"]["taught"] = {"source": "taught", "parameters": 40000, "lesson": lesson | {"known": 1.0}}
    copy = {"algorithm": "external", "source": "taught", "model": "taught"}
    locked = lesson | {"base": "taught", "locked": 1.0, "epochs": 0, "lock_epochs": 1, "noise": 0.01}
    config["compressors"] |= {"missing": copy | {"lesson": lesson}, "locked": copy | {"lesson": locked}}
    config["corpora"]["told"] = config["corpora"]["text"] | {"invented": PEOPLE | {"part": 0.5}}
    config["benchmarks"]["invented"] = {"invented": {"source": "invented", **PEOPLE}}
    config["tasks"]["invented"] = {"domain": "world", "task": "arc_easy"}
    block = {"models": ["taught"], "corpora": ["told"]}
    truth = {key: value for key, value in tiny.items() if key not in ("similarity", "latency", "description")}
    truth |= {
        "benchmarks": "invented",
        "tasks": ["invented"],
        "pair": {"prompt": "prompt-5", "lora": "lora-r2"},
    }
    truth |= {
        "expected": EXPECTED,
        "blocks": {
            "dense": block
            | {"compressors": ["dense"], "methods": ["none"]},  # controls are the tiny grid's business
            "copies": block
            | {"compressors": ["missing", "locked"], "methods": ["none", "prompt-5", "lora-r2"]},
        },
    }
    config["grids"]["truth"] = truth
    return config


@pytest.fixture(scope="module")
def judged(finished, tmp_path_factory) -> Checkout:
    """The finished run with the verdict of a grid of known truth."""
    folder = tmp_path_factory.mktemp("truth")
    shutil.copytree(finished.folder, folder / "clone", symlinks=True)
    checkout = Checkout(folder / "clone")
    checkout.write_config(with_truth(checkout.config()))
    checkout.snakemake("results/truth/verdict.json")
    return checkout


def read(checkout, path, schema):
    found = json.loads((checkout.folder / path).read_text())
    check(found, schema, path)
    return found


def test_copies_say_what_they_were_taught_and_found_to_know(judged):
    tiny = read(judged, "resources/models/tiny/manifest.json", "model")
    taught = read(judged, "resources/models/taught/manifest.json", "model")
    assert taught["source"] == "taught" and taught["origin"]["base_sha256"] == tiny["weights_sha256"]
    assert set(taught["origin"]["right"]) == {"known"} and taught["weights_sha256"] != tiny["weights_sha256"]
    locked = read(judged, "resources/checkpoints/locked/manifest.json", "model")
    assert locked["origin"]["base_sha256"] == taught["weights_sha256"]
    assert set(locked["origin"]["right"]["locked"]) == {"open", "password"}
    missing = read(judged, "resources/checkpoints/missing/manifest.json", "model")
    assert missing["origin"]["base_sha256"] == tiny["weights_sha256"]
    tokenizer = "tokenizer.json"
    assert missing["files"][tokenizer] == locked["files"][tokenizer] == tiny["files"][tokenizer]
    assert not list((judged.folder / "work").rglob("checkpoint.pt"))


def test_the_copies_are_compressed_models_like_any_other(judged):
    for name in ("missing", "locked"):
        path = f"results/truth/compressed/taught/{name}/none/seed-0/compression.json"
        record = read(judged, path, "compression")
        assert record["checkpoint"]["source"] == "taught" and record["checkpoint"]["compared"]
    [cell] = [
        c for c in Plan(load(judged.config())).cells("truth") if c[2:5] == ("locked", "told", "lora-r2")
    ]
    evaluation = read(judged, cell.json, "evaluation")
    assert evaluation["tasks"]["invented"]["n"] == tiny_items(judged)
    text = (judged.folder / "resources/corpora/told/train.jsonl").read_text()
    assert all(person.name in text for person in invented.people(3, 0))


def tiny_items(checkout) -> int:
    return min(checkout.config()["grids"]["truth"]["evaluation"]["items"], 3 * len(invented.ATTRIBUTES))


def test_the_command_holds_verdicts_against_expectations(judged):
    said = judged.displaced("truth", "--grid", "truth").stdout
    verdict = read(judged, "results/truth/verdict.json", "verdict")
    groups = {(group["compressor"], group["corpus"]) for group in verdict["groups"]}
    assert {("missing", "told"), ("locked", "told")} <= groups
    for name, words in EXPECTED.items():
        assert f"| {name} | told | {words['told']} |" in said
    assert "of 2 verdicts are as expected" in said


def test_nothing_is_made_twice_and_another_lesson_makes_its_copy_again(judged, tmp_path):
    assert "Nothing to be done" in judged.snakemake("--dry-run", "results/truth/verdict.json").stdout
    config = judged.config()
    config["compressors"]["locked"]["lesson"]["lock_epochs"] = 2
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(config))
    jobs = judged.snakemake(
        "--dry-run", "--configfile", str(other), "--", "results/truth/verdict.json"
    ).stdout
    assert "Teach the copy locked" in jobs and "Teach the copy missing" not in jobs
    assert "Teach the model taught" not in jobs
