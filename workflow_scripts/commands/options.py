"""Options and words that several commands share."""

import argparse
from collections.abc import Sequence


def add_grid(parser: argparse.ArgumentParser, default: str) -> None:
    """--grid, --blocks and --configfile; `default` is the grid that the command takes if none is named."""
    parser.add_argument("--grid", default=default, help="a grid of the configuration (default: %(default)s)")
    parser.add_argument(
        "--blocks",
        type=lambda names: names.split(","),
        metavar="BLOCK[,BLOCK]",
        help="blocks of the grid, joined by commas (default: all)",
    )
    add_configfile(parser)


def add_configfile(parser: argparse.ArgumentParser) -> None:
    """--configfile."""
    parser.add_argument(
        "--configfile",
        nargs="+",
        default=[],
        metavar="FILE",
        help="YAML files that are read over config.yaml, in this order",
    )


def add_archive(parser: argparse.ArgumentParser, name: str) -> None:
    """A positional argument that names an archive."""
    parser.add_argument(name, help="an archive: a folder or a .tar.gz file")


def grid_words(grid: str, blocks: list[str] | None, configfile: Sequence[str]) -> list[str]:
    """Snakemake's options that stand for the arguments of `add_grid`."""
    words = ["--config", f"grid={grid}"]
    words += [f"blocks=[{','.join(blocks)}]"] if blocks else []
    return words + (["--configfile", *configfile] if configfile else [])


def warning(text: str) -> str:
    """A line on a limit of the grid."""
    return f"Warning: {text}."
