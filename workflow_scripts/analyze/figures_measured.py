"""Figure 5 (similarity to the dense model), training curves, latency, and the Pareto view."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workflow_scripts.analyze.figure_style import (
    FAMILIES,
    FigureData,
    absent,
    finish,
    legend,
    panels,
)
from workflow_scripts.analyze.results import unique

_STYLES = ["-", "--", "-.", ":"]


def method_style(data: FigureData, methods: list[str]) -> dict[str, tuple[str, str, str]]:
    """method -> colour and marker of its family, and a line style that tells the family's members apart."""
    styles, seen = {}, {}
    for method in methods:
        kind = data.methods[method]["kind"]
        seen[kind] = seen.get(kind, -1) + 1
        styles[method] = (FAMILIES[kind][1], FAMILIES[kind][2], _STYLES[seen[kind] % len(_STYLES)])
    return styles


def training(data: FigureData, title: str) -> Figure:
    """Training loss of every adapter against tokens seen; at the right end, the held-out loss."""
    if not data.trainings:
        return absent(title, "a trained adapter")
    places = {path: _place(path) for path in data.trainings}
    groups = unique(place[:3] for place in places.values())
    styles = method_style(data, unique(place[3] for place in places.values()))
    columns = min(3, len(groups))
    figure, axes = panels(-(-len(groups) // columns), columns)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, group in zip(axes.flat, groups, strict=False):
        for path, place in places.items():
            record = data.trainings[path]
            if place[:3] == group and record["loss_curve"]:
                colour, marker, style = styles[place[3]]
                tokens, losses = zip(*record["loss_curve"], strict=True)
                ax.plot(tokens, losses, style, color=colour, linewidth=1.1)
                ax.plot(
                    tokens[-1],
                    record["heldout_loss"]["after"],
                    marker,
                    markerfacecolor="white",
                    markeredgecolor=colour,
                    markersize=6,
                )
        ax.set(xlabel="training tokens", ylabel="loss (nats per token)")
        ax.set_title(f"{group[0]}, {group[1]}\n({group[2]})")
    legend(figure, [Line2D([], [], color=c, marker=m, markerfacecolor="white", linestyle=s, label=name)
                    for name, (c, m, s) in styles.items()], 5)  # fmt: skip
    note = "Lines: training loss. Hollow marks: loss on held-out windows after training."
    return finish(figure, data, "training", [note])


def _place(path: str) -> tuple[str, str, str, str]:
    """(model, compressor, corpus, adapter) of .../<model>/<compressor>/<corpus>/<adapter>/seed-n/training.json."""
    model, compressor, corpus, adapter = path.split("/")[-6:-2]
    return model, compressor, corpus, adapter


def figure5(data: FigureData, title: str) -> Figure:
    """Layerwise cosine similarity to the dense model, of attention and of token activations, for each method."""
    if not data.similarities:
        return absent(title, "a similarity measurement (grids.<name>.similarity in config.yaml)")
    cells = [record["cell"] for record in data.similarities]
    groups = unique((c["model"], c["compressor"], c["corpus"]) for c in cells)
    styles = method_style(data, unique(c["method"] for c in cells))
    figure, axes = panels(len(groups), 2)
    for row, group in zip(axes, groups, strict=True):
        for ax, (measure, label) in zip(
            row, (("attention", "attention"), ("activations", "token activations")), strict=True
        ):
            for record in data.similarities:
                cell = record["cell"]
                if (cell["model"], cell["compressor"], cell["corpus"]) == group:
                    colour, marker, style = styles[cell["method"]]
                    values = record[measure]
                    ax.plot(
                        range(len(values)),
                        values,
                        style,
                        color=colour,
                        marker=marker,
                        markersize=3,
                        linewidth=1.1,
                    )
            ax.set(xlabel="layer", ylabel="cosine similarity to dense")
            ax.set_title(f"{group[0]}, {group[1]} ({group[2]}): {label}")
    legend(
        figure,
        [Line2D([], [], color=c, marker=m, linestyle=s, label=n) for n, (c, m, s) in styles.items()],
        5,
    )
    note = "Attention over text tokens only: the prompt's columns removed, rows renormalised."
    return finish(figure, data, "figure5", [note])


def latency(data: FigureData, title: str) -> Figure:
    """Time of a forward pass and of a generated token for each method, medians with intervals."""
    return absent(title, "a latency measurement (grids.<name>.latency in config.yaml)")
