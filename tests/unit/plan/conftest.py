"""The shipped configuration, as its files say it and as it is loaded."""

import copy
from pathlib import Path

import pytest

from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.schema.configuration import Config


@pytest.fixture(scope="module")
def written() -> dict:
    return read(*files(root=Path(__file__).parents[3]))


@pytest.fixture(scope="module")
def shipped(written) -> Config:
    return load(written)


@pytest.fixture
def unfetched(written, tmp_path, monkeypatch) -> dict:
    """The shipped configuration as it is written, to be changed, in a folder without resources/."""
    monkeypatch.chdir(tmp_path)
    return copy.deepcopy(written)
