"""The report's first view: the verdict as cards, the headline figure, and the way from there to the whole page."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.judge.verdict import INFERENCE_LIMITS, LABELS, MEANING
from workflow_scripts.report.cards import cards
from workflow_scripts.report.rendering import TEMPLATES, environment
from workflow_scripts.report.summary import NAMES, covered, judged, unjudged
from workflow_scripts.report.svg import image, notes_of
from workflow_scripts.report.truth import rows, total

HEADLINE = "gains"  # the figure beside the verdicts
LINE = 9_000  # characters: docutils refuses lines above 10,000
ALT = "Gain of each method on the compressed and on the dense model, beside what compression lost"


def landing(
    verdict: dict,
    settings: dict,
    figure: Path | None,
    page: str,
    blocks: list[str] | None = None,
    not_run: str = "",
) -> str:
    """HTML without blank or long lines, as reStructuredText's `raw` needs it; a browser joins the figure's pieces.

    settings: the grid's; figure: the headline's SVG; page: the whole page's path, as Snakemake's report lists it;
    blocks: those that are counted, None for all; not_run: of `shortcomings`.
    """
    left_out = [name for name in settings.get("blocks", {}) if blocks and name not in blocks]
    html = (
        environment()
        .get_template("landing.html.j2")
        .render(
            grid=verdict["grid"],
            introduction=introduction(verdict, settings["description"])
            | {"counted": counted(blocks or [], left_out), "not_run": not_run},
            first=first_view(verdict, figure, settings.get("expected")),
            page=page,
        )
    )
    pieces = (line[at : at + LINE] for line in html.splitlines() for at in range(0, len(line), LINE))
    return "\n".join(piece for piece in pieces if piece.strip())


def style() -> str:
    """The stylesheet of Snakemake's report: the cards, and the verdict above the rule graph, both within the window."""
    return environment().get_template("landing_style.html.j2").render()


def with_frames(report: str) -> str:
    """Snakemake's report with a script that shows pages of any size in it; ArtifactError if it is no whole page."""
    before, end, after = report.rpartition("</body>")
    if not end:
        raise ArtifactError("snakemake --report wrote no whole HTML page: it has no </body>")
    return f"{before}<script>{(TEMPLATES / 'frames.js').read_text(encoding='utf-8')}</script>{end}{after}"


def introduction(verdict: dict, description: str) -> dict[str, Any]:
    """The grid, its question and the cells that it lacks, in words."""
    cells, late = verdict["cells"], verdict.get("late_changes", [])
    lacking = f"{len(cells['missing'])} of {cells['planned']} planned cells have no result."
    return {
        "description": description,
        "pair": verdict["pair"],
        "named": "in the configuration" if late else "before the run",
        "late_changes": late,
        "metric": NAMES[verdict["metric"]],
        "lacking": lacking if cells["missing"] else "",
    }


def counted(blocks: list[str], left_out: list[str]) -> str:
    """The blocks of the grid that count and those that don't, in words; empty if all of them count."""
    word = "block" if len(blocks) == 1 else "blocks"
    return f"Counted: {word} {', '.join(blocks)}; left out: {', '.join(left_out)}." if left_out else ""


def unmeasured(planned: Mapping[str, int], measured: Mapping[str, Collection]) -> dict[str, dict]:
    """similarity and latency -> {planned, made}, if measurements of the plan are missing."""
    counts = {
        kind: {"planned": count, "made": len(measured.get(kind, ()))} for kind, count in planned.items()
    }
    return {kind: count for kind, count in counts.items() if count["made"] < count["planned"]}


def shortcomings(lacking: Mapping[str, dict], warnings: list[str]) -> str:
    """Sentences on measurements that are planned and were not run (of `unmeasured`), and on limits of the plan."""
    counts = [
        f"{count['planned'] - count['made']} of {count['planned']} planned measurements of {kind}"
        for kind, count in lacking.items()
    ]
    lines = [f"Not run: {', '.join(counts)}."] if counts else []
    return " ".join(lines + [f"{warning}." for warning in warnings])


def first_view(
    verdict: dict, figure: Path | None, expected: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Cards, headline figure, and what the intervals cover; expected: labels named before the run, if any were."""
    groups = judged(verdict)
    return {
        "cards": cards(groups, verdict, expected),
        "truth": total(rows(verdict, expected)) if expected else "",
        "meanings": {label: MEANING[label].rpartition(": ")[2] for label in LABELS},
        "unjudged": unjudged(verdict) if groups else [],
        "covered": covered(groups, verdict["metric"]) if groups else "",
        "limits": INFERENCE_LIMITS,
        "headline": _headline(figure) if figure else None,
    }


def _headline(figure: Path) -> dict[str, str] | None:
    """The headline figure; None if it has nothing to show: the cards say why."""
    notes = notes_of(figure)
    if notes is None:
        return None
    alt = f"{ALT}, with 95 percent intervals; the tables hold the numbers."
    return {"source": image(figure), "alt": alt, "caption": notes}
