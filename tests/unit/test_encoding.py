"""Text is UTF-8 whatever the locale: no file is opened as text without its encoding."""

import ast
import os
import subprocess
import sys

import pytest

from tests.docs.examples import ROOT

TEXT = {"open": 1, "read_text": 0, "write_text": 1}  # function -> the place of its mode, or of its encoding


def without_encoding(source: str) -> list[int]:
    """Lines that open a file as text in the locale's encoding."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        if (
            name not in TEXT
            or (method and name == "open")
            or any(key.arg == "encoding" for key in call.keywords)
        ):
            continue
        given = call.args[TEXT[name] :]
        binary = name == "open" and given and "b" in getattr(given[0], "value", "")
        if not binary and not (name != "open" and given):
            lines.append(call.lineno)
    return lines


COMMAND = r"""
import runpy, sys
from workflow_scripts.commands import status
status.main = lambda **_: print("\u2212 0.10 \u2014 \udce9") or 0
sys.argv = ["workflow_scripts", "status", "--grid", "smoke"]
runpy.run_module("workflow_scripts", run_name="__main__")
"""
JOB = r"""
from types import SimpleNamespace
from workflow_scripts.files.job import job
with job(SimpleNamespace(log=["log"], rule="tabulate", output=["table"])):
    print("\u2212 0.10 \u2014 \udce9", flush=True)
    raise ValueError("\u2014 \udce9")
"""


def in_locale(name: str, program: str, folder) -> subprocess.CompletedProcess:
    """Run a program in a locale whose encoding is the terminal's, as Python without its UTF-8 mode takes it."""
    own = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": name, "PYTHONPATH": str(ROOT)}
    own["PYTHONIOENCODING"] = "" if name == "C" else "latin-1"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=os.environ | own, capture_output=True, check=False
    )


@pytest.mark.parametrize("name", ["C", "latin-1"])
def test_a_command_ends_well_where_the_terminal_lacks_a_character(name, tmp_path):
    """A run ended in UnicodeEncodeError after hours. A minus sign must not become a question mark."""
    done = in_locale(name, COMMAND, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == rb"\u2212 0.10 \u2014 \udce9" + b"\n"


@pytest.mark.parametrize("name", ["C", "latin-1"])
def test_a_jobs_log_is_utf_8_in_every_locale(name, tmp_path):
    done = in_locale(name, JOB, tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode() == "tabulate: table: \u2014 \\udce9 (log: log)\n"
    assert (tmp_path / "log").read_text(encoding="utf-8").startswith("\u2212 0.10 \u2014 \\udce9\n")


def test_no_file_is_opened_in_the_locales_encoding():
    found = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted((ROOT / "workflow_scripts").rglob("*.py"))
        for line in without_encoding(file.read_text(encoding="utf-8"))
    }
    assert not found


def test_the_check_sees_text_and_passes_over_bytes():
    assert without_encoding("open(a)\nopen(a, 'w')\np.read_text()\np.write_text(t)") == [1, 2, 3, 4]
    assert (
        without_encoding("open(a, 'rb')\nos.open(a, 1)\nopen(a, encoding='utf-8')\np.read_text('utf-8')")
        == []
    )


def test_a_configuration_and_a_result_are_read_and_told_in_a_locale_without_utf8(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "grids: {smoke: {description: caf\xe9}}\ngrid: caf\xe9\n", encoding="utf-8"
    )
    (tmp_path / "result.json").write_text('{"name": "caf\xe9"}', encoding="utf-8")
    code = (
        "from workflow_scripts.plan.config import read; from workflow_scripts.files.artifacts import read_json;"
        "assert read('mine.yaml')['grid'] == read_json('result.json')['name'] == 'caf\\xe9'"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_CTYPE")}
    environment |= {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for command in (["-c", code], ["-m", "workflow_scripts", "forecast", "--grid", "caf\xe9"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
