"""The collector rests while an evaluation imports its libraries, and works afterwards."""

import gc
import sys
from types import ModuleType

import pytest

from workflow_scripts.jobs import evaluate_cell
from workflow_scripts.kernels.allocator import collector_at_rest


def test_the_collector_works_again_after_an_error():
    with pytest.raises(ImportError), collector_at_rest():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_an_evaluation_imports_its_libraries_while_the_collector_rests(monkeypatch, tmp_path):
    seen = []

    class Cell(ModuleType):
        def __getattr__(self, name):
            seen.append(gc.isenabled())
            return lambda *args: seen.append(gc.isenabled())

    monkeypatch.setitem(sys.modules, "workflow_scripts.evaluate.cell", Cell("cell"))
    evaluate_cell.main(None, None, None, {}, None, str(tmp_path / "seed-0.json"), "")
    assert set(seen[:-1]) == {False} and seen[-1]
