"""The perplexity of an evaluation, and the protocol that it follows (evaluate/perplexity.py defines both)."""

from workflow_scripts.judge.results import Results
from workflow_scripts.plan.layout import Cell


def compared(evaluation: dict) -> dict[str, dict]:
    """Corpus -> figure of the protocol in `protocol`, by which cells are compared."""
    return {corpus: figures.get("windowed", figures) for corpus, figures in evaluation["perplexity"].items()}


def protocol(evaluation: dict) -> str:
    """The protocol of `compared`: windowed.

    An evaluation older than the protocols has one figure, with one BOS for the whole text, which is both if the model
    has no BOS. The rows of verdict.json hold the answer.
    """
    if "protocol" in evaluation:
        return evaluation["protocol"]
    old = any("token" in figures for figures in evaluation["perplexity"].values())
    return "reference" if old and evaluation["manifest"]["config"].get("bos") else "windowed"


def references(evaluation: dict) -> dict[str, dict]:
    """Corpus -> figure of the reference protocol where it is another than the one compared."""
    both = {corpus: f for corpus, f in evaluation["perplexity"].items() if "reference" in f}
    return {corpus: f["reference"] for corpus, f in both.items() if f["reference"] != f["windowed"]}


def heldout(results: Results, cell: Cell) -> float | None:
    """Perplexity per token, as cells are compared, on the cell's corpus or the first one measured; None if none was."""
    figures = compared(results.evaluations[cell])
    chosen = figures.get(cell.corpus) or next(iter(figures.values()), None)
    return chosen["token"] if chosen else None
