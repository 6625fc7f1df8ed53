"""The README's account of a result: a marked region, written from an archive and never by hand."""

from workflow_scripts.archive.packing import packed_by
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.report.summary import cautions, covered, detectable, judged, nats, points, unjudged

BEGIN = "<!-- results: written by `python -m workflow_scripts readme`, not by hand -->"
END = "<!-- end of results -->"


def region(verdict: dict, index: dict, archive: str) -> str:
    """Markdown: what was measured, a row per compressed model with its verdict, the headline figure.

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
    counts = sorted({sum(group["items"].values()) for group in groups})
    items = " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    lines = [
        f"Grid `{grid}`, blocks that were run: {blocks}. Average 0-shot accuracy over the tasks, {items} paired items; "
        f"points with 95 % intervals. {covered(groups, pair)} *Brought back*: beyond what the method also gives the "
        "dense model.",
        "",
        f"| compressed model | lost | brought back by `{pair['prompt']}` | brought back by `{pair['lora']}` "
        "| verdict | by gold log-likelihood |",
        "|---|--:|--:|--:|---|---|",
        *(_row(group, pair) for group in groups),
        "",
    ]
    if minded := [f"- {caution}" for group in groups for caution in _cautions(group, pair)]:
        lines += [*minded, ""]
    missing = verdict["cells"]["missing"]
    if missing:
        left = unjudged(verdict)
        without = f" No verdict yet for {'; '.join(left)}." if left else ""
        lines += [
            f"{len(missing)} of {verdict['cells']['planned']} planned cells of the grid were not run.{without}",
            "",
        ]
    figure = f"{archive}/results/{grid}/figures/figure4.svg"
    lines += [
        f"![Average accuracy against the parameters that each method adds, with 95 % intervals]({figure})",
        "",
        f"Everything behind these numbers is in [`{archive}`]({archive}): `make rebuild FROM={archive}` makes the "
        f"tables, figures, verdict and report again, without a model. It was packed by {packed_by(index['commit'])}.",
    ]
    return "\n".join(lines)


def _row(group: dict, pair: dict) -> str:
    accuracy, loglik = group["metrics"]["accuracy"], group["metrics"]["gold_loglik"]
    gains = [accuracy["methods"].get(method) for method in (pair["prompt"], pair["lora"])]
    brought = [_brought(row) if row else "not run" for row in gains]
    words = [metric["verdict"]["word"].replace("_", " ") for metric in (accuracy, loglik)]
    # a sample that sees no loss does not show that there is none
    words = [word.replace("no loss", "no loss visible") for word in words]
    if words[0] == "no loss visible":
        words[0] += f" (detectable from {100 * accuracy['loss_smallest_detectable']:.1f})"
    where = f"{group['model']}, {group['compressor']}, {group['corpus']}"
    cells = [where, points(accuracy["loss"]), *brought, f"**{words[0]}**", words[1]]
    return "| " + " | ".join(cell.replace(" points", "") for cell in cells) + " |"


def _brought(row: dict) -> str:
    control = "" if row["controlled"] else ", not controlled"
    return f"{points(row['controlled'] or row['gain'])}{control}{detectable(row)}"


def _cautions(group: dict, pair: dict) -> list[str]:
    where = f"{group['model']}, {group['compressor']}, {group['corpus']}"
    return [
        f"{where}, by {name}: {caution}."
        for metric, name, shown in (
            ("accuracy", "accuracy", points),
            ("gold_loglik", "gold log-likelihood", nats),
        )
        for caution in cautions(group["metrics"][metric], pair, shown)
    ]


def current(readme: str) -> str:
    """What stands between the marks; ArtifactError without them."""
    _, mark, rest = readme.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    if not mark or not end:
        raise ArtifactError(f"the README has no region between '{BEGIN}' and '{END}'")
    return inside.strip("\n")


def replaced(readme: str, text: str) -> str:
    """The README with `text` between the marks."""
    current(readme)
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
