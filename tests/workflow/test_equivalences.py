"""Today's code beside a release: a stage that makes other numbers is found, and must be in the changelog."""

import subprocess
from pathlib import Path

import pytest

from tests import equivalences
from tests.workflow.test_adopt import UNMERGED, edit
from workflow_scripts.plan import adopted


@pytest.mark.slow
def test_what_a_release_made_otherwise_is_named_and_the_rest_is_equivalent(copied, tmp_path, capfd):
    """The release's LoRA is not merged into the weights: its training makes the same, its cells do not."""
    assert equivalences.compare(copied.folder, tmp_path / "same") == (set(), [])
    edit(copied, *UNMERGED)
    copied.snakemake()
    changed, found = equivalences.compare(copied.folder, tmp_path / "today")
    assert changed == {"evaluate_cell"}
    assert [one["rule"] for one in found] == ["train_adapter"]
    assert "lora-r2/seed-0.json" in capfd.readouterr().out
    assert equivalences.told("v1", changed, found) == [
        "Makes what v1 made: train_adapter",
        "Makes something else than v1, or nothing that compares: evaluate_cell",
    ]


def test_a_configuration_that_today_refuses_compares_nothing(copied, tmp_path, capsys):
    (copied.folder / "config.yaml").write_text("unheard: of\n")
    changed, found = equivalences.compare(copied.folder, tmp_path / "today")
    assert {"fetch_model", "compress_model", "train_adapter", "evaluate_cell"} <= changed and not found
    assert "unheard" in capsys.readouterr().out


def test_only_the_newest_numbers_count():
    text = "# Changelog\n\n## Unreleased\n\n### Numbers\n\n`judge` moves.\n\n### Fixed\n\n`a`\n\n## 1\n\n### Numbers\n"
    assert equivalences.numbers(text) == "Numbers\n\n`judge` moves.\n\n"
    assert equivalences.numbers("## 2\n\n### Added\n\n## 1\n\n### Numbers\n\n`b`\n") == ""


def test_a_clone_without_tags_has_no_release(tmp_path, monkeypatch, capsys):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert equivalences.last_release(tmp_path) is None
    monkeypatch.setattr(equivalences, "last_release", lambda: None)
    monkeypatch.setattr("sys.argv", ["equivalences"])
    assert equivalences.main() == 2
    assert "no tag" in capsys.readouterr().err


@pytest.mark.parametrize("grid", [None, "tiny"])
def test_recipes_accept_what_a_release_ships(grid, tmp_path, monkeypatch):
    machine = {"host": "h", "cpu": "c", "python": "3"}
    row = {"rule": "evaluate_cell", "kinds": ["lora"], "old": "a" * 64, "new": "b" * 64, "results": 1}
    row |= {"compared": [], "machine": machine, "user": "u", "time": "t"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adopted, "RELEASED", tmp_path / "released.json")
    assert adopted.equivalent_codes(grid) == {}
    adopted.write_rows(adopted.RELEASED, [row])
    assert adopted.equivalent_codes(grid) == {("b" * 64, "lora"): "a" * 64}
    adopted.write_rows(Path(adopted.record_path("tiny")), [row | {"new": "c" * 64}])
    monkeypatch.setattr(adopted, "PACKAGE", tmp_path / "package")
    assert adopted.evidence_of("tiny", ["b" * 64]) == "released.json"
    assert adopted.evidence_of("tiny", ["c" * 64]) == "results/tiny/adopted.json"
