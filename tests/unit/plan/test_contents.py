"""contents: files that the package does not import, by what they hold and not by where they lie."""

import os
import shutil
from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import sha256_file
from workflow_scripts.plan import contents
from workflow_scripts.plan.config import load
from workflow_scripts.plan.contents import LARGE
from workflow_scripts.plan.recipes import Plan


@pytest.fixture
def local(tmp_path, monkeypatch, shipped):
    """Gives the recipe of a local source at a path; a model and a corpus lie below the working folder."""
    model = tmp_path / "disk" / "weights"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(3 * LARGE))
    (tmp_path / "disk" / "text.txt").write_text("text")
    monkeypatch.chdir(tmp_path)

    def recipe(catalogue: str, path: object, trusted: bool = False) -> str:
        more = {"models": {"parameters": 1e6}, "compressors": {"algorithm": "external"}}.get(catalogue, {})
        config = shipped.dump()
        config[catalogue]["mine"] = {"source": "local", "path": str(path), **more}
        config["trusted_code"] = ["mine"] if trusted else []
        return Plan(load(config)).recipe(catalogue, "mine")

    return recipe


@pytest.fixture
def read(monkeypatch):
    """The files that are read whole; times of files count at once."""
    files = []

    def sha256(file):
        files.append(Path(file).name)
        return sha256_file(file)

    monkeypatch.setattr(contents, "sha256_file", sha256)
    monkeypatch.setattr(contents, "SETTLED", -(10**18))
    return files


@pytest.mark.parametrize(("catalogue", "name"), [("models", "weights"), ("corpora", "text.txt")])
def test_where_a_local_source_lies_is_no_part_of_its_recipe(local, tmp_path, catalogue, name):
    before = local(catalogue, f"disk/{name}")
    assert local(catalogue, tmp_path / "disk" / name) == before
    shutil.move(tmp_path / "disk", tmp_path / "other mount")
    assert local(catalogue, tmp_path / "other mount" / name) == before
    shutil.copytree("other mount", "restored", copy_function=shutil.copyfile)  # with other times
    assert local(catalogue, f"restored/{name}") == before
    assert local(catalogue, f"disk/{name}") != before, "it is not there any more"


@pytest.mark.parametrize("catalogue", ["models", "compressors"])
@pytest.mark.parametrize("place", [0, LARGE + LARGE // 2, -1])
def test_other_weights_of_the_same_size_are_another_source(local, read, catalogue, place):
    """Also in the middle of the file, and if its times were put back."""
    file = Path("disk/weights/model.safetensors")
    before, stat = local(catalogue, "disk/weights"), file.stat()
    with open(file, "r+b") as handle:
        handle.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        handle.write(b"1")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert local(catalogue, "disk/weights") != before
    file.write_bytes(bytes(3 * LARGE))
    assert local(catalogue, "disk/weights") == before
    Path("disk/weights/config.json").write_text("[]")
    assert local(catalogue, "disk/weights") != before


def test_a_large_file_is_read_once(local, read):
    before = local("models", "disk/weights")
    assert read == ["config.json", "model.safetensors"]
    assert local("models", Path("disk/weights").absolute()) == before
    assert read == ["config.json", "model.safetensors", "config.json"]
    assert not list(Path("disk").rglob("*.json"))[1:], "nothing is kept in the user's folder"
    shutil.rmtree("resources/.hashes")
    Path("resources/.hashes").touch()  # no folder: nothing can be kept
    assert local("models", "disk/weights") == before


def test_a_file_that_was_just_written_is_read_again(local):
    """A second write within one step of its times could not be told."""
    local("models", "disk/weights")
    assert not Path("resources/.hashes").exists()


def test_only_files_that_the_fetch_takes_count(local):
    folder = Path("disk/weights")
    before = {key: local(key, folder) for key in ("models", "compressors")}
    (folder / "logs").mkdir()
    (folder / "logs" / "events.out").write_text("log")
    (folder / "README.md").write_text("read me")
    (folder / "optimizer.safetensors").write_bytes(b"no weights that anybody loads")
    (folder / "modeling_mine.py").write_text("code")
    assert {key: local(key, folder) for key in before} == before
    assert local("models", folder, trusted=True) != before["models"], "code that runs"
    (folder / "quantize_config.json").write_text("{}")
    assert local("models", folder) == before["models"]
    assert local("compressors", folder) != before["compressors"]
    (folder / "tokenizer.json").write_text("{}")
    assert local("models", folder) != before["models"]


def test_of_a_folder_with_a_gguf_file_that_file_counts(local):
    folder = Path("disk/gguf")
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"GGUF")
    before = local("compressors", folder)
    (folder / "config.json").write_text("{}")
    assert local("compressors", folder) == before
    (folder / "a.gguf").write_bytes(b"other")
    assert local("compressors", folder) != before


def test_texts_of_a_corpus_folder_count(local):
    folder = Path("disk/texts")
    folder.mkdir()
    (folder / "train.txt").write_text("text")
    before = local("corpora", folder)
    (folder / "README.md").write_text("read me")
    assert local("corpora", folder) == before
    (folder / "heldout.txt").write_text("more")
    assert local("corpora", folder) != before


def test_an_entry_depends_on_the_folders_of_reports_that_it_reads():
    """By what it imports; an edit of a template judges nothing anew."""
    expected = {
        "find_answers": set(),
        "build_ledger": set(),
        "judge": set(),
        "plot_figures": {"paper"},
        "tabulate": {"paper", "templates"},
        "audit_paper": {"paper", "templates"},
        "draw_page": {"paper", "templates"},
        "report_grid": {"captions", "paper", "templates", "workflow.rst"},
    }
    for entry, folders in expected.items():
        assert {file.partition("/")[0] for file in contents.of_reports(entry)} == folders, entry
