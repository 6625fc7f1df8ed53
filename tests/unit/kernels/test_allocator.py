"""The collector rests while an evaluation imports its libraries, and works afterwards."""

import gc
import sys
import weakref
from types import ModuleType

import pytest

from workflow_scripts.jobs import evaluate_cell
from workflow_scripts.kernels.allocator import collector_at_rest


def test_the_collector_works_again_after_an_error():
    with pytest.raises(ImportError), collector_at_rest():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_the_collector_passes_over_what_was_there_and_sees_what_comes_later():
    class Cycle:
        def __init__(self):
            self.own = self

    with collector_at_rest():
        imported = Cycle()
    try:
        assert not any(each is imported for each in gc.get_objects())
        later = weakref.ref(Cycle())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()


def test_an_evaluation_imports_its_libraries_while_the_collector_rests(monkeypatch, tmp_path):
    seen = []

    class Cell(ModuleType):
        def __getattr__(self, name):
            seen.append(gc.isenabled())
            return lambda *args: seen.append(gc.isenabled())

    monkeypatch.setitem(sys.modules, "workflow_scripts.evaluate.cell", Cell("cell"))
    evaluate_cell.main(None, None, None, {}, None, str(tmp_path / "seed-0.json"), "")
    assert set(seen[:-1]) == {False} and seen[-1]
