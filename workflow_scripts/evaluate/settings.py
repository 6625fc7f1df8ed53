"""Settings of evaluations and measurements. They import no library: an entry takes its lock before it loads any."""

from dataclasses import dataclass, field

from workflow_scripts.files.job import Folder


@dataclass(frozen=True)
class CellSettings:
    """Slices of the configuration: the cell's method, its tasks by name, and the grid's evaluation.

    chat: the tasks ask through the model's chat template; a method of kind text is its system message then.
    """

    method: dict
    tasks: dict
    evaluation: dict
    chat: bool = False

    @property
    def system(self) -> str | None:
        """The system message of the tasks' questions, if a method brings one."""
        return self.method["text"] if self.chat and self.method["kind"] == "text" else None


@dataclass(frozen=True)
class EvaluationData:
    """Folders that a cell is evaluated on: benchmarks, each named like its task, and corpora for the perplexity.

    elsewhere: pattern of the paths of this cell's JSON in any grid; results that suit are taken over from there.
    stands_for: names of benchmarks and corpora -> digest of the older code whose results were adopted for this cell's.
    """

    benchmarks: list[Folder]
    corpora: list[Folder]
    elsewhere: str
    stands_for: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldoutText:
    """The first `windows` windows of `length` tokens in a corpus' held-out text."""

    corpus: Folder
    windows: int
    length: int


@dataclass(frozen=True)
class LatencyShape:
    """batch: sequences. sequence: text tokens of each. generate: tokens that follow. precision: fp32 or bf16."""

    batch: int
    sequence: int
    generate: int
    repeats: int
    precision: str
