"""A sound archive and ways to change it."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.unit.synthetic_results import plan, write_cell
from workflow_scripts.__main__ import main
from workflow_scripts.archive import packing as archives
from workflow_scripts.archive.packing import CONFIG, FORMAT, INDEX, SAMPLES
from workflow_scripts.files.artifacts import read_json, sha256_file, write_json
from workflow_scripts.plan.config import files, load, read, write_complete
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]


def write_index(folder: Path, **changes) -> None:
    """archive.json of what lies in the folder; a change to None leaves a key out."""
    names = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file() and f.name != INDEX]
    index = {
        "format": FORMAT,
        "grid": "smoke",
        "commit": "a" * 40,
        "small": False,
        "answers_recipe": "b" * 64,
        "blocks": {"core": {"planned": 2, "evaluated": 2}},
        "files": {n: sha256_file(folder / n) for n in names},
    }
    (folder / INDEX).write_text(json.dumps({k: v for k, v in (index | changes).items() if v is not None}))


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    """An archive of two cells of the smoke grid; the working folder for it has the same configuration."""
    root = tmp_path_factory.mktemp("sound")
    shipped = read(*files(root=ROOT))
    config = shipped | {"grid": "smoke", "grids": {"smoke": shipped["grids"]["smoke"]}}
    made = Plan(load(config))
    cells = made.cells("smoke")[:2]
    for row in plan(root, [cell[1:] for cell in cells], "smoke"):
        write_cell(row, 3)
    folder = root / "archive"
    (folder / "results").mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    here = Path.cwd()
    os.chdir(root)
    try:
        archives._merge_samples(cells, folder / SAMPLES)
        for cell in cells:
            evaluation = read_json(cell.json)
            evaluation["manifest"] |= {key: made.evaluate(cell)[key] for key in ("recipe", "code")}
            write_json(cell.json, evaluation)
            archives.copy(Path(cell.json), folder / cell.json)
    finally:
        os.chdir(here)
    write_index(folder)
    return folder


@pytest.fixture
def it(sound, tmp_path, monkeypatch) -> Path:
    """A copy of the sound archive: `it` in the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(sound, "it")
    write_complete(yaml.safe_load((sound / CONFIG).read_text()), Path())
    return Path("it")


def evaluation(folder: Path) -> Path:
    return next(folder.glob("results/smoke/evaluations/**/seed-0.json"))


def packed(folder: Path) -> Path:
    archives._write_tar(folder, Path(f"{folder}.tar.gz"))
    return Path(f"{folder}.tar.gz")


def refusals(source: Path, capsys) -> list[str]:
    """What each command says of an archive: one line, and nothing is written by then, here or a folder up."""
    before = sorted(Path("..").rglob("*"))
    lines = []
    for command in (["rebuild"], ["restore"], ["compare", "--out", "difference.json", str(source)]):
        assert main([*command, str(source)]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and len(said.err) < 400, said.err
        assert said.err.startswith(f"{source}: ") and not re.search("archive-|compare-|delete", said.err)
        lines.append(said.err)
    assert sorted(Path("..").rglob("*")) == before
    return lines
