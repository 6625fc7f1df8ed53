"""The whole configuration: catalogues, grids and what one run chooses."""

from typing import Literal

from workflow_scripts.files.members import WORK
from workflow_scripts.plan.schema.compressors import AnyCompressor
from workflow_scripts.plan.schema.grids import Grid, Regime, Task
from workflow_scripts.plan.schema.keys import Count, Entry, Flag, Name, Names, Number, Text, key
from workflow_scripts.plan.schema.methods import AnyMethod
from workflow_scripts.plan.schema.sources import Benchmark, Corpus, Model

CATALOGUES = ("models", "corpora", "benchmarks", "tasks", "compressors", "methods", "training", "grids")


class Adoption(Entry):
    """Results that `adopt` makes again before it adopts those of an older code (docs/howto/upgrade.md)."""

    samples: Count = key(
        "Results of each rule and method that are made again; one of each kind, if that is more.",
        2,
        "results",
    )
    choice: Literal["cheapest", "random"] = key(
        "Which: those with the least forecast cost, or any (always the same ones).", "cheapest"
    )


class Config(Entry):
    """A configuration with its defaults filled in; `plan.config.load` checks what types cannot say."""

    grid: Name = key("The grid that `rule all` makes; `--config grid=paper` chooses another.", "smoke")
    blocks: Names | None = key(
        "Blocks of `grid` that are made and rolled up (`--config grid=bench blocks=core`, or `blocks=[core,seeds]`); "
        "null = all.",
        None,
    )
    partial: Flag = key(
        "Roll up the cells that exist: missing cells are shown as missing (`--config partial=true`).", False
    )
    called_with: list[Text] = key(
        "Files that `--configfile` named. The workflow fills it in, and a report prints them in the commands that make "
        "its files again.",
        [],
    )
    unshown: list[Text] = key(
        "Figures and pages of `grid` that its report leaves out, since they have nothing of the grid to show. The "
        "report fills it in.",
        [],
    )
    rebuilt: Flag = key(
        "Results come from an archive and keep their recipes, of whatever code. `make rebuild` sets it.",
        False,
    )
    optimum_python: Text = key(
        "Python of optimum's environment, for compressors with `engine: optimum` and for checkpoints in formats of "
        "compressed-tensors, bitsandbytes and ModelOpt; `make optimum` makes the default.",
        ".venv-optimum/bin/python",
    )
    llmcompressor_python: Text = key(
        "Python of llm-compressor's environment, for compressors with `engine: llmcompressor`; `make llmcompressor` "
        "makes the default.",
        ".venv-llmcompressor/bin/python",
    )
    activation_memory: Number = key(
        "Calibration activations that are kept in memory when a model is compressed or repaired (EoRA); larger ones "
        f"lie in a file under {WORK}/. Results do not depend on it.",
        4,
        "GiB",
    )
    adopt: Adoption = key("Evidence that `adopt` asks for after an upgrade.", Adoption())
    trusted_code: list[Name] = key("Models (by name) whose repository may run its own Python code.", [])
    models: dict[Name, Model] = key("Dense causal language models, each pinned.")
    corpora: dict[Name, Corpus] = key(
        "Text that calibrates compressors, trains adapters and measures perplexity."
    )
    benchmarks: dict[Name, dict[Name, Benchmark]] = key("Sets of task data; a set holds one source per task.")
    tasks: dict[Name, Task] = key(
        "Tasks by the harness's names (or files in evaluate/tasks), with the domain that they count to."
    )
    compressors: dict[Name, AnyCompressor] = key("Named settings of a compression algorithm.")
    methods: dict[Name, AnyMethod] = key("How performance is recovered.")
    training: dict[Name, Regime] = key(
        "Training regimes; a grid names one. Each holds the settings of the three tuners."
    )
    grids: dict[Name, Grid] = key("Named unions of blocks with their budgets.")

    def names(self) -> dict[str, list[str]]:
        """Catalogue -> the names in it."""
        return {catalogue: list(getattr(self, catalogue)) for catalogue in CATALOGUES}
