"""A working directory with a tiny model, its copy, two prompts, a corpus and nine benchmarks."""

import os
from pathlib import Path

import pytest

from tests.equivalence import scorer_folders


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(root)  # work/ lies in the working directory
    yield scorer_folders.project(root)
    os.chdir(before)
