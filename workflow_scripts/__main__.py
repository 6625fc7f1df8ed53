"""The commands: `python -m workflow_scripts` lists them, `python -m workflow_scripts <command> --help` explains one."""

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from tempfile import gettempdir
from typing import NoReturn, cast

COMMANDS = (
    *"new check run judge status preflight explain forecast plan".split(),
    *"archive rebuild restore compare adopt gate publish truth readme".split(),
)


class Parser(argparse.ArgumentParser):
    """Ends with 1 for words that it does not know, as every mistake does: argparse's 2 is the gate's word for open."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: error: {message}\n")


def summary_of(command: str) -> str:
    """First line of a command's docstring. Read from the file: an import of every command would take seconds."""
    text = Path(__file__).with_name("commands").joinpath(f"{command}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def main(words: Sequence[str]) -> int:
    """Run the command that `words` name; returns an exit status. A user's mistake is one line on stderr."""
    parser = Parser(
        prog="python -m workflow_scripts",
        description="Does compression make a language model forget knowledge, or only misplace it?",
        epilog="python -m workflow_scripts <command> --help explains a command and gives examples.",
    )
    commands = parser.add_subparsers(title="commands", metavar="<command>", dest="command")
    chosen = words[0] if words and words[0] in COMMANDS else None
    for name in COMMANDS:
        summary = summary_of(name)
        own = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = importlib.import_module(f"workflow_scripts.commands.{name}")
            own.description = module.__doc__
            module.add_arguments(own)
    arguments, unknown = parser.parse_known_args(words)
    if chosen is None:
        parser.print_help()
        return 0
    values = {name: value for name, value in vars(arguments).items() if name != "command"}
    if "snakemake_options" in values:
        values["snakemake_options"] = unknown
    elif unknown:
        commands.choices[chosen].error(f"unrecognized arguments: {' '.join(unknown)}")
    return _one_line_errors(module.main, values)


def _one_line_errors(command: Callable[..., int], values: dict) -> int:
    """The command's exit status; 1, with the message alone, for an error that the user can mend."""
    from workflow_scripts.cluster.slurm import SlurmError
    from workflow_scripts.files.artifacts import ArtifactError
    from workflow_scripts.files.disks import cause
    from workflow_scripts.plan.config import ConfigError

    try:
        return command(**values)
    except (ArtifactError, ConfigError, SlurmError) as error:
        print(error, file=sys.stderr)
    except BrokenPipeError:  # of `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if place := error.filename2 or error.filename:  # of a copy, that which is written
            print(f"{place}: {cause(error, place)}", file=sys.stderr)
        else:  # of a write: here, where a text names, or among temporary files
            named = [Path(value) / "x" for value in values.values() if isinstance(value, str | Path)]
            print(cause(error, "x", *named, Path(gettempdir()) / "x"), file=sys.stderr)
    return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a locale without a character must not end a command
        # A minus sign that became a question mark would be lost.
        cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
