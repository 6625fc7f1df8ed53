"""`make docs`: mkdocs builds every page in its own environment, and a warning is an error."""

import shutil

import pytest

from tests.docs import stage
from tests.docs.examples import PAGES, ROOT


@pytest.mark.network
def test_the_documentation_builds_without_a_warning(tmp_path):
    folder = stage.build(tmp_path / "clone")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy2(ROOT / "mkdocs.yml", folder / "mkdocs.yml")
    done = stage.run(folder, "make docs")
    assert done.returncode == 0, done.stdout[-3000:]
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            html = folder / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")
            assert "<!-- reference" not in html.read_text()
    assert "learning_rate" in (folder / "site/reference/config.html").read_text()
