"""Every task of a compressed group by itself: accuracy of its first seed, and the exact test against no method."""

from workflow_scripts.judge.arms import Arm
from workflow_scripts.judge.results import Results, paired_items
from workflow_scripts.judge.statistics import (
    finite,
    mcnemar,
    paired_interval,
    proportion_interval,
    smallest_detectable,
)
from workflow_scripts.plan.layout import Cell


def task_tests(results: Results, arms: dict[str, Arm], dense: Cell | None) -> dict[str, dict]:
    """method -> task -> accuracy of the first seed with Wilson interval and exact McNemar against `none`.

    The row `none` compares the compressed model with the dense one. A method is held against its own copy. arms: of
    the compressed model, by method; without `none` there is no row.
    """
    report: dict[str, dict] = {}
    for method, arm in arms.items() if "none" in arms else ():
        base = dense if method == "none" else _copy_of(arm.cells[0], arms["none"])
        cells = [arm.cells[0], *([base] if base else [])]
        report[method] = {}
        for task, frame in paired_items(results, cells, "correct").items():
            after = frame[0].to_numpy() > 0.5
            low, high = proportion_interval(int(after.sum()), len(after))
            row: dict = {
                "n": len(after),
                "acc": float(after.mean()),
                "low": finite(low),
                "high": finite(high),
            }
            if base:
                before = frame[1].to_numpy() > 0.5
                test = mcnemar(before, after)
                low, high = paired_interval(test["gained"], test["lost"], len(after))
                change = float(after.mean() - before.mean())
                found = smallest_detectable({task: after.astype(float) - before}, binary=True)
                row |= {
                    "difference": {"value": change, "low": finite(low), "high": finite(high)},
                    "smallest_detectable": finite(found),
                    **test,
                }
            report[method][task] = row
    return report


def _copy_of(cell: Cell, none: Arm) -> Cell | None:
    """The compressed model without a method that the cell's adapter stands on; None if it was not evaluated."""
    if none.shared:
        return none.cells[0]
    return next((base for base in none.cells if base.seed == cell.seed), None)
