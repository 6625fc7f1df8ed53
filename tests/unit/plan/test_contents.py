"""contents: files that the package does not import, by what they hold and not by where they lie."""

import shutil
from pathlib import Path

import pytest

from workflow_scripts.plan import contents
from workflow_scripts.plan.config import load
from workflow_scripts.plan.contents import PIECE
from workflow_scripts.plan.recipes import Plan


@pytest.fixture
def local(tmp_path, monkeypatch, shipped):
    """Gives the recipe of a local model or corpus at a path; both lie below the working folder."""
    model = tmp_path / "disk" / "weights"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(5 * PIECE))
    (tmp_path / "disk" / "text.txt").write_text("text")
    monkeypatch.chdir(tmp_path)

    def recipe(catalogue: str, path: object) -> str:
        more = {"parameters": 1e6} if catalogue == "models" else {}
        config = shipped.dump()
        config[catalogue]["mine"] = {"source": "local", "path": str(path), **more}
        return Plan(load(config)).recipe(catalogue, "mine")

    return recipe


@pytest.mark.parametrize(("catalogue", "name"), [("models", "weights"), ("corpora", "text.txt")])
def test_where_a_local_source_lies_is_no_part_of_its_recipe(local, tmp_path, catalogue, name):
    before = local(catalogue, f"disk/{name}")
    assert local(catalogue, tmp_path / "disk" / name) == before
    shutil.move(tmp_path / "disk", tmp_path / "other mount")
    assert local(catalogue, tmp_path / "other mount" / name) == before
    (tmp_path / "other mount" / "weights" / ".cache").write_text("a hidden file")
    assert local(catalogue, f"other mount/{name}") == before
    assert local(catalogue, f"disk/{name}") != before, "it is not there any more"


@pytest.mark.parametrize("place", [0, -1])
def test_other_contents_of_the_same_size_are_another_source(local, place):
    before = local("models", "disk/weights")
    weights = bytearray(5 * PIECE)
    weights[place] = 1
    Path("disk/weights/model.safetensors").write_bytes(weights)
    assert local("models", "disk/weights") != before
    Path("disk/weights/model.safetensors").write_bytes(bytes(5 * PIECE))
    Path("disk/weights/config.json").write_text("[]")
    assert local("models", "disk/weights") != before


def test_an_entry_depends_on_the_folders_of_reports_that_it_reads():
    """By what it imports; an edit of a template judges nothing anew."""
    expected = {
        "find_answers": set(),
        "build_ledger": set(),
        "judge": set(),
        "plot_figure": {"paper"},
        "tabulate": {"paper", "templates"},
        "audit_paper": {"paper", "templates"},
        "draw_page": {"paper", "templates"},
        "report_grid": {"captions", "paper", "templates", "workflow.rst"},
    }
    for entry, folders in expected.items():
        assert {file.partition("/")[0] for file in contents.of_reports(entry)} == folders, entry
