"""A browser, if one is installed."""

import pytest

from tests.browser import chromium


@pytest.fixture(scope="module")
def browser():
    executable = chromium.find()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed")
    found = chromium.Browser(executable)
    yield found
    found.close()
