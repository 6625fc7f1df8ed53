"""What is drawn comes from verdict.json: the report computes no interval."""

import ast

import pytest

from workflow_scripts.files.artifacts import PACKAGE

STATISTICS = {"arms", "changes", "choices", "judgement", "rates", "scores", "statistics", "strata"}


@pytest.mark.parametrize("module", sorted((PACKAGE / "report").glob("*.py")), ids=lambda path: path.stem)
def test_the_report_imports_no_statistics(module):
    imports = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    assert not [name for name in names if name.startswith(("scipy", "statsmodels"))]
    judge = {name.split(".")[2] for name in names if name.startswith("workflow_scripts.judge.")}
    assert not judge & STATISTICS
