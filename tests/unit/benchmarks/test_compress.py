"""The compression benchmark on a tiny model: what it measures on, and that a run ends in its table."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks import compress
from tests import tiny

ROOT = Path(__file__).resolve().parents[3]


def wikitext(count: int, seed: int) -> str:
    """`count` articles in WikiText's raw form."""
    return "".join(
        f" \n = Title {seed} {number} = \n \n {text.replace('.', ' .')} \n \n = = Part = = \n \n Of 1 @,@ 000 \n"
        for number, text in enumerate(tiny.sentences(count, seed))
    )


def data(folder: Path) -> Path:
    for split, seed in (("valid", 1), ("test", 2)):
        (folder / f"wikitext2_{split}.txt").write_text(wikitext(12, seed))
    return folder


def test_prose_has_neither_headings_nor_marks():
    text = " \n = Title = \n \n A town , small . It has 1 @,@ 000 stones . \n = = Part = = \n Of iron . \n"
    assert compress.prose(text) == "A town, small. It has 1,000 stones.\n\nOf iron."


def test_options_are_chosen_on_articles_that_do_not_calibrate(tmp_path):
    model = tiny.write_model(tmp_path / "model")
    args = Namespace(data=data(tmp_path), text="raw", on="valid")
    documents = compress.articles(args, "valid")
    assert len(documents) == 12 and compress.valid_cut(documents) == 9
    measured = compress.Perplexity(model, args).text
    assert measured == "".join(documents[9:]) and "Title 1 8 " not in measured
    test = compress.Perplexity(model, Namespace(data=tmp_path, text="raw", on="test")).text
    assert "Title 2 0" in test and "Title 1" not in test


def test_figures_hold_for_their_protocol_alone(capsys):
    said = {
        "text": "prose",
        "on": "test",
        "windows": 32,
        "length": 512,
        "test_windows": 16,
        "precision": "fp32",
    }
    args = Namespace(model=Path("resources/models/smollm2-135m"), layers=None, **said)
    assert compress.limit("gptq-w3-clip", 28.0, args) == 103.0
    assert compress.limit("gptq-w8", 28.0, args) == 28.0 * 1.001
    for key, other in {"text": "raw", "on": "valid", "windows": 16, "precision": "bf16", "layers": 2}.items():
        assert compress.limit("gptq-w3-clip", 28.0, Namespace(**vars(args) | {key: other})) == float("inf")
    run = {"seconds": 10.0, "floor": 1.2, "perplexity": 60.0, "peak_mb": 1, "versions": {}}
    peer = run | {"seconds": 21.0, "perplexity": 61.0}
    assert not compress.report("gptq-w3-clip", {"own": [run], "gptqmodel": [peer]}, 103.0)
    for changed, said in (
        ({"floor": 1.4}, "1.40 floors"),
        ({"seconds": 11.0}, "1.91 times as fast as gptqmodel"),
        ({"perplexity": 62.0}, "gptqmodel 61.00"),
        ({"perplexity": 104.0}, "more than 103.00"),
    ):
        assert compress.report("gptq-w3-clip", {"own": [run | changed], "gptqmodel": [peer]}, 103.0)
        assert said in capsys.readouterr().out
    assert compress.report("gptq-w3-clip", {}, 103.0)  # every run failed


def test_a_run_leaves_its_figures(tmp_path):
    model, results = tiny.write_model(tmp_path / "model"), tmp_path / "runs.jsonl"
    command = [
        sys.executable,
        "-m",
        "benchmarks.compress",
        "--model",
        model,
        "--data",
        data(tmp_path),
        "--peers",
        "own",
        "--compressors",
        "gptq-w3-clip",
        "wanda-50",
        "--draws",
        "1",
        "--windows",
        "8",
        "--length",
        "32",
        "--test-windows",
        "2",
        "--threads",
        "1",
        "--options",
        'own={"damping": 0.5}',
        "--results",
        results,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert results.exists(), done.stderr
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    assert [run["name"] for run in runs] == ["gptq-w3-clip", "wanda-50"]
    assert [run["compressor"].get("bits") for run in runs] == [3, None]
    for run in runs:
        assert run["perplexity"] > 1 and run["seconds"] > 0 and run["floor"] > 0
        assert len(run["errors"]) == 7 and all(0 < error < 1 for error in run["errors"].values())
        assert run["options"] == {"damping": 0.5} and run["calibration"] == 8
    missed = any("floors, more than" in line for line in done.stdout.splitlines())
    assert done.returncode == missed, done.stderr
