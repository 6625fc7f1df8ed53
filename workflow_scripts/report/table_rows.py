"""The parts of a table: entries, rows, panels."""

from dataclasses import dataclass, field

INFORMATIVE = "Informative"  # the column of the mean that the verdict is given on
MEANS = ("Average", INFORMATIVE)  # columns whose interval is always shown


@dataclass
class TableEntry:
    """One number of a table, percent; None if it is missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    printed: float | None = None


@dataclass
class Row:
    """One method on one compressed model; `problem` says why its numbers are missing or incomplete."""

    model: str
    corpus: str
    type: str
    method: str
    param: str
    entries: dict[str, TableEntry]
    gain: TableEntry = field(default_factory=TableEntry)
    p_holm: float | None = None
    detectable: float | None = None
    problem: str = ""
    note: str = ""
    adapted: str = ""  # of a LoRA: its linears, their layers, its parameters

    @property
    def named(self) -> str:
        """The method as tables name it."""
        return "none (compressed)" if self.method == "none" else self.method

    @property
    def finds_nothing(self) -> bool:
        """Whether not even the largest gain that can be, from no recovery to every answer right, would be found."""
        average, gain = self.entries["Average"].value, self.gain.value
        most = 100.0 if average is None or gain is None else 100 - (average - gain)
        return self.detectable is not None and self.detectable > most


@dataclass
class Panel:
    """One compressor's rows. `printed`: the paper has this very panel."""

    compressor: str
    title: str
    rows: list[Row]
    printed: bool = False


@dataclass
class Table:
    number: int
    grid: str
    title: str
    columns: list[str]  # tasks, domains, means
    panels: list[Panel]
    notes: list[str]
    missing: list[str]
    command: str  # that makes it again

    @property
    def tasks(self) -> list[str]:
        """The columns of tasks and domains."""
        return [column for column in self.columns if column not in MEANS]
