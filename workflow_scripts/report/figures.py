"""Every figure by name: title and the function that draws it."""

from collections.abc import Callable

from matplotlib.figure import Figure

from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_gains import gains
from workflow_scripts.report.figure_pareto import pareto
from workflow_scripts.report.figure_scheme import figure3
from workflow_scripts.report.figure_style import save, use_style
from workflow_scripts.report.figure_tasks import figure7
from workflow_scripts.report.figures_accuracy import figure1, figure2, figure4, figure6
from workflow_scripts.report.figures_measured import figure5, latency, training

FIGURES: dict[str, tuple[Callable[[GridData, str], Figure], str]] = {
    "figure1": (figure1, "Figure 1. What compression costs"),
    "figure2": (figure2, "Figure 2. Perplexity against accuracy by prompt length"),
    "figure3": (figure3, "Figure 3. Inference-time dynamic prompting"),
    "figure4": (figure4, "Figure 4. Accuracy against parameters added"),
    "figure5": (figure5, "Figure 5. Similarity to the dense model by layer"),
    "figure6": (figure6, "Figure 6. Dynamic prompting against prompt length"),
    "figure7": (figure7, "Figure 7. Change of each task"),
    "gains": (gains, "Gains beside the loss"),
    "pareto": (pareto, "Accuracy against cost"),
    "training": (training, "Training curves"),
    "latency": (latency, "Latency"),
}


def draw(name: str, data: GridData, outputs: list[str]) -> None:
    """Draw one figure and write it in every format asked for; KeyError for an unknown name."""
    function, title = FIGURES[name]
    use_style()
    save(function(data, title), outputs, title)
