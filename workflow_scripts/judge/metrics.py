"""The metrics that verdicts are given on, and which tasks carry them."""

from dataclasses import dataclass

from workflow_scripts.judge.results import Results
from workflow_scripts.judge.statistics import proportion_interval
from workflow_scripts.plan.layout import Cell

CHANCE_OF_GENERATION = 0.01  # a share of right answers that guessing may reach where there are no choices


@dataclass(frozen=True)
class Metric:
    """column: of `Results.items`; sign: -1 if less is better; negligible: lambda, the smallest loss that counts.

    informative: averaged over the informative tasks alone. judged: has a verdict. binary: right or wrong.
    """

    column: str
    negligible: float
    sign: int = 1
    informative: bool = True
    judged: bool = True
    binary: bool = False


ACCURACY, ALL_TASKS = "accuracy", "accuracy_all_tasks"
METRICS = {
    ACCURACY: Metric("correct", 0.01, binary=True),
    # As the paper's Average.
    ALL_TASKS: Metric("correct", 0.01, informative=False, judged=False, binary=True),
    "choice_loglik": Metric("choice_loglik", 0.02),
    "bits_per_byte": Metric("bits_per_byte", 0.01, sign=-1),
}


def informative_tasks(results: Results, dense: Cell) -> dict[str, dict[str, float]]:
    """Task -> {n, acc, low, chance, informative} of the dense cell without a method.

    A task is informative if the Wilson interval of the dense model's accuracy lies above chance: one over the number
    of choices, or 1 % without choices. Compressed cells are not looked at.
    """
    items = results.items(dense)
    found = {}
    for task, mine in items.groupby(level="task", sort=False):
        choices = mine["choices"].dropna()
        chance = float((1 / choices).mean()) if len(choices) else CHANCE_OF_GENERATION
        right, n = int(mine["correct"].sum()), len(mine)
        low, _ = proportion_interval(right, n)
        found[str(task)] = {
            "n": n,
            "acc": right / n,
            "low": low,
            "chance": chance,
            "informative": bool(low > chance),
        }
    return found
