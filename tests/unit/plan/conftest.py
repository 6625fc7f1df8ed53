"""The shipped configuration, as its files say it and as it is loaded."""

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
