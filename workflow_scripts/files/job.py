"""Runs an entry inside a Snakemake job: with arguments by name, output to the job's log, failure in one line."""

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_origin, get_type_hints

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.disks import full_disks
from workflow_scripts.files.members import WORK

if TYPE_CHECKING:
    from io import TextIOWrapper

    from snakemake.iocontainers import Snakemake

FINISHED = "Finished."  # a line in the log of a job that wrote all of its output
Folder = Annotated[Path, "the folder of the file that the rule names"]


def run(main: Callable[..., None], frame: Callable[[dict[str, Any]], AbstractContextManager[None]]) -> None:
    """Run an entry's `main` as its Snakemake job, with the arguments that `arguments` finds, inside `job` and `frame`.

    frame: takes the parameter `args` and watches over the work (plan.digests.unchanged). Snakemake puts the job into
    the entry's module as the global `snakemake`. RuntimeError if it is not there.
    """
    snakemake = getattr(main, "__globals__", {}).get("snakemake")
    if snakemake is None:
        raise RuntimeError(f"{main.__module__}: an entry runs only as the script of a Snakemake rule")
    with (
        job(snakemake),
        _whole_or_none(snakemake.output),
        put_back_times(snakemake),
        frame(_planned(snakemake)),
    ):
        main(**arguments(main, snakemake))


@contextmanager
def _whole_or_none(outputs: Iterable[str]) -> Iterator[None]:
    """Remove what a job that fails has written: its code may have been edited. Snakemake does so too, but not on a
    cluster (profiles/slurm), where it would remove the results of jobs that were never sent."""
    before = {file: _version(file) for file in outputs}
    try:
        yield
    except BaseException:
        for file, version in before.items():
            if _version(file) != version:
                Path(file).unlink(missing_ok=True)
        raise


def _version(file: str) -> tuple[int, int] | None:
    """Values that change when a file is written; None without it."""
    if not os.path.exists(file):
        return None
    stat = os.stat(file)
    return stat.st_ino, stat.st_mtime_ns


def arguments(function: Callable[..., Any], snakemake: "Snakemake") -> dict[str, Any]:
    """The arguments of a function, found in a Snakemake job by the names of its parameters.

    A parameter gets the value of the same name among the rule's inputs, outputs and parameters, the keys in its
    parameters `args` and `beside` (`as_text` wrote them), and these: `threads`; `config`; `inputs` and `outputs`, lists
    of all files; `output`, the first of them, which errors name; `cell`, the wildcards as a dict. A wildcard counts if
    nothing else has its name: an input `model` is the file of the model that the wildcard `model` names. A seed is an
    int.

    Annotations matter in three cases. `Folder` (or a list of it, or None for no file) asks for the folder of a file, a
    list for a plain list, and a dataclass for a value whose fields are filled by the same rule.

    A parameter keeps its default if nothing has its name. TypeError if it has none, or if two things have its name.
    """
    given, hints = _given(snakemake), get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    for name, parameter in signature(function).parameters.items():
        values, annotation = given.get(name, []), hints[name]
        if isinstance(annotation, type) and is_dataclass(annotation):
            found[name] = annotation(**arguments(annotation, snakemake))
        elif len(values) == 1:
            found[name] = _as_asked(values[0], annotation)
        elif values or parameter.default is Parameter.empty:
            number = "several things" if values else "nothing"
            raise TypeError(f"{function.__module__}: the rule has {number} named `{name}`, which it asks for")
    return found


def as_text(args: dict[str, Any]) -> str:
    """Arguments as the value of one of a rule's parameters: JSON in which no tag can stand.

    Snakemake's report embeds parameters in a script as they are, and a "</script>" of a description would end it.
    """
    return json.dumps(args).replace("<", "\\u003c")


def arguments_in(text: str) -> dict[str, Any]:
    """The arguments that `as_text` wrote."""
    found: dict[str, Any] = json.loads(text)
    return found


def _planned(snakemake: "Snakemake") -> dict[str, Any]:
    """The parameter `args`, with the digests of the code and of other contents, which may stand beside it."""
    params = dict(snakemake.params.items())
    beside = arguments_in(params.get("beside", "{}"))
    return arguments_in(params["args"]) | {key: beside[key] for key in ("code", "contents") if key in beside}


def _given(snakemake: "Snakemake") -> dict[str, list]:
    """Name -> the values of that name in a job: one, or several if the rule is ambiguous."""
    params = dict(snakemake.params.items())
    wildcards = {name: int(value) if name == "seed" else value for name, value in snakemake.wildcards.items()}
    about = {
        "threads": snakemake.threads,
        "config": snakemake.config,
        "inputs": list(snakemake.input),
        "outputs": list(snakemake.output),
        "output": snakemake.output[0],
        "cell": wildcards,
    }
    groups = [
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        arguments_in(params.pop("args", "{}")),
        arguments_in(params.pop("beside", "{}")),
        params,
        about,
    ]
    found: dict[str, list] = {}
    for group in groups:
        for name, value in group.items():
            found.setdefault(name, []).append(value)
    return {name: [value] for name, value in wildcards.items()} | found


def _as_asked(value: Any, annotation: Any) -> Any:
    if annotation == list[Folder]:
        return [Path(file).parent for file in value]
    if annotation in (Folder, Folder | None):
        files = [value] if isinstance(value, str) else list(value)
        return Path(files[0]).parent if files else None
    return list(value) if get_origin(annotation) is list else value


def log(line: str) -> None:
    """A line in the job's log, at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def put_back_times(snakemake: "Snakemake") -> Iterator[None]:
    """Before and after a job's work, set inputs whose time is later than now, or than the outputs', back to that.

    Snakemake deletes the output of a finished job if an input's time is later, whatever the recipes say: after a clock
    was set back, or with files from a machine whose clock is ahead. ArtifactError for a file of somebody else's.
    """
    _set_back(snakemake.input, os.stat(snakemake.log[0]).st_mtime)  # the log is new: the file system's now
    yield
    made = [os.stat(path).st_mtime for path in snakemake.output if os.path.exists(path)]
    _set_back(snakemake.input, min(made, default=math.inf))


def _set_back(files: Iterable[str], latest: float) -> None:
    """Set later times to `latest` (as os.stat gives it), of links and of what they lead to."""
    for file in files:
        for follow in (True, False):
            if os.path.exists(file) and os.stat(file, follow_symlinks=follow).st_mtime > latest:
                try:
                    os.utime(file, (latest, latest), follow_symlinks=follow)
                except OSError as error:
                    raise ArtifactError(
                        f"{file}: its time lies in the future and can't be changed ({error.strerror}): Snakemake would "
                        f"delete what is made from it; have its owner run `touch {file}`, or set the clock"
                    ) from error


@contextmanager
def job(snakemake: "Snakemake") -> Iterator[None]:
    """Send stdout and stderr to the rule's log; on failure print rule, artefact, cause and log, and exit 1.

    The traceback is in the log, the last line on the terminal is for the person who must act.
    """
    file = Path(snakemake.log[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(file, "w", encoding="utf-8") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):  # whatever the locale: the log is UTF-8
        cast("TextIOWrapper", stream).reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        yield
        with contextlib.suppress(OSError):  # the log's disk may be full, the output is there
            os.write(1, f"\n{FINISHED}\n".encode())
    except Exception as error:
        # The log may lie on the disk that is full: the line below must still come.
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        cause = " ".join(str(error).split()) or type(error).__name__
        if " on the disk of " not in cause:
            cause += full_disks(snakemake.output[0], file, WORK / "x")
        os.write(
            terminal,
            f"{snakemake.rule}: {snakemake.output[0]}: {cause} (log: {file})\n".encode(
                errors="backslashreplace"
            ),
        )
        raise SystemExit(1) from None
    finally:
        os.close(terminal)
