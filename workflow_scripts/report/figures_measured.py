"""Figure 5 (similarity to the dense model), training curves, latency, and the Pareto view."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from workflow_scripts.judge.results import unique
from workflow_scripts.plan.layout import Cell, result_of
from workflow_scripts.report.figure_style import FAMILIES, FigureData, absent, finish, legend, panels

_VARIANTS = {  # how a method was applied -> its family, words beside its name
    "none": ("none", ""), "prompt": ("prompt", ", prepended"), "prompt_cached": ("prompt", ", cached"),
    "prefix": ("prefix", ""), "idp": ("idp", ""), "idp_mixed": ("idp", ", rows mixed"),
    "concat": ("concat", ""), "lora": ("lora", ", unmerged"), "lora_merged": ("lora", ", merged"),
}  # fmt: skip
_STYLES = ["-", "--", "-.", ":"]


def method_style(data: FigureData, methods: list[str]) -> dict[str, tuple[str, str, str]]:
    """method -> colour and marker of its family, and a line style.

    The style tells a family's members apart, and in grey as many methods of all families as there are styles.
    """
    styles, used = {}, {}
    for method in methods:
        kind, first = data.methods[method]["kind"], len(styles) % len(_STYLES)
        taken = used.setdefault(kind, [])
        style = next((s for s in [*_STYLES[first:], *_STYLES] if s not in taken), _STYLES[first])
        taken.append(style)
        styles[method] = (FAMILIES[kind][1], FAMILIES[kind][2], style)
    return styles


def training(data: FigureData, title: str) -> Figure:
    """Training loss of every adapter against tokens seen; at the right end, the held-out loss."""
    if not data.trainings:
        return absent(data, "training", title, "a trained adapter")
    cells = {path: Cell.of(result_of(path)[1]) for path in data.trainings}
    groups = unique(cell.group for cell in cells.values())
    styles = method_style(data, unique(cell.method for cell in cells.values()))
    columns = min(3, len(groups))
    figure, axes = panels(-(-len(groups) // columns), columns)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, group in zip(axes.flat, groups, strict=False):
        for path, cell in cells.items():
            record = data.trainings[path]
            if cell.group == group and record["loss_curve"]:
                colour, marker, style = styles[cell.method]
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


def figure5(data: FigureData, title: str) -> Figure:
    """Layerwise cosine similarity to the dense model, of attention and of token activations, for each method."""
    if not data.similarities:
        return _unmeasured(data, "figure5", title, "similarity")
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
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_title(f"{group[0]}, {group[1]} ({group[2]})\n{label}")
    legend(
        figure,
        [Line2D([], [], color=c, marker=m, linestyle=s, label=n) for n, (c, m, s) in styles.items()],
        5,
    )
    note = "Attention over text tokens only: the prompt's columns removed, rows renormalised."
    return finish(figure, data, "figure5", [note, *_lacking(data, "similarity", data.similarities)])


def latency(data: FigureData, title: str) -> Figure:
    """Time of a forward pass and of one generated token for each method, medians with intervals."""
    if not data.latencies:
        return _unmeasured(data, "latency", title, "latency")
    height = 0.6 + 0.27 * max(len(record["latencies"]) for record in data.latencies)
    figure, axes = panels(len(data.latencies), 2, height, 9, sharey="row")
    for row, record in zip(axes, data.latencies, strict=True):
        entries, place, shape = record["latencies"], record["place"], record["shape"]
        for ax, measure, label in zip(
            row, ("prefill", "token"), ("forward pass", "generated token"), strict=True
        ):
            for y, entry in enumerate(entries):
                if value := entry[measure]:
                    _, colour, marker, _ = FAMILIES[_VARIANTS[entry["variant"]][0]]
                    ax.hlines(y, value["low"], value["high"], color=colour, linewidth=1.5)
                    ax.plot(value["median"], y, marker, color=colour, markersize=6)
                    ratio = (
                        f" ×{entry[f'{measure}_ratio']['median']:.2f}" if entry["variant"] != "none" else ""
                    )
                    ax.annotate(
                        ratio,
                        (value["high"], y),
                        xytext=(3, 0),
                        textcoords="offset points",
                        fontsize=7,
                        va="center",
                    )
            ax.set(xlabel=f"seconds per {label}", xlim=(0, None))
            ax.margins(x=0.16)
            ax.grid(axis="y", visible=False)
        row[0].set_yticks(
            range(len(entries)), [f"{e['method']}{_VARIANTS[e['variant']][1]}" for e in entries]
        )
        row[0].invert_yaxis()
        row[0].set_title(f"{place['model']}, {place['compressor']} ({place['corpus']}): "
                         f"batch {shape['batch']}, {shape['sequence']} tokens, {shape['precision']}")  # fmt: skip
    devices = "; ".join(unique(record["manifest"]["device"] for record in data.latencies))
    note = f"{latency_intervals(data.latencies)}; × is the ratio to no method, paired within rounds. Device: {devices}."
    for record in data.latencies:
        for entry in record["latencies"]:
            named = f" {entry['method']}{_VARIANTS[entry['variant']][1]} on {record['place']['compressor']}"
            for member, value in entry.get("cached_ratio", {}).items():
                spread = f"{value['median']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
                note += f"{named}: ×{spread} of {member} cached."
            if shares := entry.get("shares"):
                served = ", ".join(f"{member} {share:.0%}" for member, share in shares.items())
                note += f"{named} served rows with {served}."
    return finish(figure, data, "latency", [note, *_lacking(data, "latency", data.latencies)])


def latency_intervals(records: list[dict]) -> str:
    """What the intervals of a latency are, with the coverage of the least covering one."""
    least = min(entry["prefill"].get("coverage", 0) for record in records for entry in record["latencies"])
    if not least:  # of an older measurement
        return "Medians with percentile bootstrap intervals, which on few rounds cover less than 95 %"
    if least < 0.95:
        return f"Medians with the range of all rounds, which covers the true median at {100 * least:.1f} %"
    return f"Medians with 95 % intervals (order statistics, covering {100 * least:.1f} %)"


def _unmeasured(data: FigureData, name: str, title: str, kind: str) -> Figure:
    """The figure without any measurement: `planned` tells one that was not run from one that the grid does not have."""
    planned, key = data.planned.get(kind, 0), f"grids.{data.results.grid}.{kind} in config.yaml"
    need = f"a {kind} measurement ({f'{planned} planned, none run; ' if planned else ''}{key})"
    return absent(data, name, title, need, planned=planned > 0)


def _lacking(data: FigureData, kind: str, measured: list) -> list[str]:
    """A line where only a part of the planned measurements exists."""
    planned = data.planned.get(kind, 0)
    return [f"{len(measured)} of {planned} planned measurements exist."] if len(measured) < planned else []
