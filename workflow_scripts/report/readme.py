"""The README's account of a result: a marked region, written from an archive and never by hand."""

from collections import Counter

from workflow_scripts.archive.packing import packed_by
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.layout import figure
from workflow_scripts.report.landing import ALT, HEADLINE
from workflow_scripts.report.summary import (
    NAMES,
    brought_back,
    cautions,
    covered,
    headline,
    judged,
    place,
    unit,
    unjudged,
)

BEGIN = "<!-- results: written by `python -m workflow_scripts readme`, not by hand -->"
END = "<!-- end of results -->"


def region(verdict: dict, index: dict, archive: str) -> str:
    """Markdown: the measurement, a row per compressed model with its verdict, the headline figure.

    verdict: verdict.json; index: archive.json; archive: the archive's folder as the README links it.
    """
    pair, grid = verdict["pair"], verdict["grid"]
    groups = judged(verdict)
    blocks = ", ".join(
        name
        if block["evaluated"] == block["planned"]
        else f"{name} ({block['evaluated']} of {block['planned']} cells)"
        for name, block in index["blocks"].items()
        if block["evaluated"]
    )
    metric = verdict["metric"]
    counts = sorted({sum(group["metrics"][metric]["items"].values()) for group in groups})
    items = " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    words = Counter(group["metrics"][metric]["verdict"]["word"].replace("_", " ") for group in groups)
    lines = [
        f"**Verdicts: {', '.join(f'{count} {word}' for word, count in words.items())}.** Grid `{grid}`, "
        f"blocks that were run: {blocks}. 0-shot {NAMES[metric]} over the tasks that the dense model answers above "
        f"chance ({_tasks(groups, metric)}), {items} paired items, with 95 % intervals. {covered(groups, metric)} "
        "*Brought back*: beyond the method's gain on the dense model; harm to the dense model earns nothing.",
        "",
        f"| compressed model | replicates | lost | brought back by `{pair['prompt']}` "
        f"| brought back by `{pair['lora']}` | verdict (support) |",
        "|---|--:|--:|--:|--:|---|",
        *(_row(group, pair, metric) for group in groups),
        "",
    ]
    if minded := _remarks(groups, pair, metric):
        lines += [*minded, ""]
    missing = verdict["cells"]["missing"]
    if missing:
        left = unjudged(verdict)
        without = f" No verdict yet for {'; '.join(left)}." if left else ""
        lines += [
            f"{len(missing)} of the {verdict['cells']['planned']} cells of these blocks were not run.{without}",
            "",
        ]
    lines += [
        f"![{ALT}, with 95 % intervals]({archive}/{figure(HEADLINE).path(grid)})",
        "",
        f"[`{archive}`]({archive}) holds everything behind these numbers; `make rebuild FROM={archive}` makes the "
        f"report again without a model. It was packed by {packed_by(index['commit'])}.",
    ]
    return "\n".join(lines)


def _tasks(groups: list[dict], metric: str) -> str:
    """ "piqa, sciq; not triviaqa", by model where they differ."""
    said = {}
    for group in groups:
        found = group["metrics"][metric]
        lists = ", ".join(found["items"]), ", ".join(found["absent_tasks"])
        said[group["model"]] = "; not ".join(filter(None, lists))
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{model}: {tasks}" for model, tasks in said.items())


def _row(group: dict, pair: dict, metric: str) -> str:
    found, shown = group["metrics"][metric], unit(metric)
    brought = [brought_back(found, method, shown) for method in pair.values()]
    replicates = str(found["verdict"]["replicates"])
    word = f"**{headline(found['verdict'])}**"
    cells = [place(group), replicates, shown(found.get("loss")), *brought, word]
    return "| " + " | ".join(cell.replace(" points", "") for cell in cells) + " |"


def _remarks(groups: list[dict], pair: dict, metric: str) -> list[str]:
    """Cautions of the primary metric, and data that would settle an undecided verdict: each once, with its models."""
    places: dict[str, list[str]] = {}
    for group in groups:
        found = group["metrics"][metric]
        settle = found["verdict"]["settle"]
        for sentence in [*cautions(found, pair, unit(metric)), *([settle] if settle else [])]:
            places.setdefault(sentence, []).append(place(group))
    lines = []
    for sentence, named in places.items():
        whose = "Every compressed model" if len(named) == len(groups) > 1 else "; ".join(named)
        lines.append(f"- {whose}: {sentence}.")
    return lines


def current(readme: str) -> str:
    """The text between the marks; ArtifactError without them."""
    _, mark, rest = readme.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    if not mark or not end:
        raise ArtifactError(
            f"no region between '{BEGIN}' and '{END}'; put both lines where the results shall stand"
        )
    return inside.strip("\n")


def replaced(readme: str, text: str) -> str:
    """The README with `text` between the marks; ArtifactError without them."""
    current(readme)
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
