"""`python -m workflow_scripts`: the list of commands, their help, and what becomes of a wrong option."""

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts.__main__ import COMMANDS, main, summary_of
from workflow_scripts.commands import run
from workflow_scripts.plan.config import files

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_with_its_summary(capsys):
    assert main([]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert all(f"{command} {summary_of(command)}" in listed for command in COMMANDS)
    files = {path.stem for path in (ROOT / "workflow_scripts/commands").glob("[!_]*.py")}
    assert files == {*COMMANDS, "options", "progress"}


def test_the_reference_has_every_command_and_every_variable_of_make():
    page = (ROOT / "docs/reference/commands.md").read_text()
    table = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {*re.findall(r"`(\w+)`", table)} >= {*COMMANDS}
    makefile = (ROOT / "Makefile").read_text()
    variables = {*re.findall(r"\$\((?:if|or) \$\(([A-Z_]+)\)", makefile)} - {"STALE"}
    listed = page.partition("## make")[2].partition("are given as")[0]
    assert {*re.findall(r"`([A-Z_]+)`", listed)} == variables | {"GRID", "SMOKE"}
    assert {*COMMANDS} - {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)} == {"readme"}


def test_the_list_imports_no_command():
    code = "import sys; from workflow_scripts.__main__ import main; main([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert [name for name in modules if name.startswith("workflow_scripts.")] == ["workflow_scripts.__main__"]
    assert not {"yaml", "pandas", "torch"} & set(modules)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"\n  python -m workflow_scripts {command}" in text
    options = [line for line in text.splitlines() if line.startswith("  -")]
    following = dict(zip(text.splitlines(), text.splitlines()[1:]))
    assert all("  " in line.strip() or following[line].startswith(" " * 10) for line in options)


def test_an_option_that_a_command_does_not_know_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["status", "--gird", "smoke"])
    assert "unrecognized arguments: --gird smoke" in capsys.readouterr().err


def test_further_options_of_a_run_go_to_snakemake(tmp_path, monkeypatch):
    called = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    for name in files():
        shutil.copy(ROOT / name, name)
    monkeypatch.setattr(run, "follow", lambda command: called.extend(command) or 1)
    options = ["--profile", "slurm", "--cores", "2", "--keep-going"]
    assert main(["run", "--grid", "bench", "--blocks", "core,seeds", *options]) == 1
    assert called[-5:] == options
    assert called[called.index("--config") + 1 :][:2] == ["grid=bench", "blocks=[core,seeds]"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: no space left on the disk of "),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "a/b: your quota on the disk of "),
        (
            OSError(errno.EROFS, "Read-only file system", "a/b"),
            "is read-only: work in a folder where you may write",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied: user "),
        (OSError("[Errno 28] Error writing bytes to file"), "[Errno 28] Error writing bytes to file"),
        (
            OSError(errno.ENOSPC, "No space left on device", "from", None, "to/x"),
            "to/x: no space left on the disk of",
        ),
    ],
)
@pytest.mark.parametrize("command", ["archive", "rebuild", "readme", "compare", "status"])
def test_trouble_with_a_disk_is_one_line_of_every_command(
    command, error, said, tmp_path, monkeypatch, capsys
):
    def fail(**_):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"workflow_scripts.commands.{command}.main", fail)
    words = {"archive": ["--grid", "x"], "rebuild": ["x"], "compare": ["x", "y"]}.get(command, [])
    assert main([command, *words]) == 1
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and "Traceback" not in told


def test_a_full_disk_that_an_error_does_not_name_is_found_among_those_that_may_be_meant(
    tmp_path, monkeypatch, capsys
):
    """A write names no file: the disk of the current folder was told, whichever was full."""

    def fail(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflow_scripts.commands.rebuild.main", fail)
    full = tmp_path / "small"
    monkeypatch.setattr(
        "workflow_scripts.files.disks._full", lambda folder: f"{folder} is full" if folder == full else ""
    )
    assert main(["rebuild", "x", "--out", "small/out"]) == 1
    assert capsys.readouterr().err == f"{full} is full\n"
    assert main(["rebuild", "x"]) == 1
    assert capsys.readouterr().err == "no space left on a disk\n"
