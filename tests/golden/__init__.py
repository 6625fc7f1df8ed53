"""Golden data: figures of reference implementations, and the check of our own against them."""

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the check. `passed` None: the deviation must be at most 1e-6."""

    case: str
    method: str
    figure: float
    reference: float
    deviation: float
    passed: bool | None = None
    note: str = ""

    def holds(self) -> bool:
        return self.deviation <= 1e-6 if self.passed is None else self.passed
