"""Tasks are checked in this process alone."""

import pytest

from workflow_scripts.evaluate import task_check


@pytest.fixture
def one_process(monkeypatch):
    """Other processes take seconds; one test has them."""
    monkeypatch.setattr(task_check, "has_functions", lambda definition: False)
