"""One table as CSV, Markdown, LaTeX (booktabs) and a self-contained HTML page."""

import csv
import functools
import io
import re
from pathlib import Path

import jinja2
import pandas as pd

from workflow_scripts.judge.verdict import LABELS
from workflow_scripts.judge.verdict import percent as in_percent
from workflow_scripts.report.summary import scale
from workflow_scripts.report.table_rows import INFORMATIVE, MEANS, Row, Table, TableEntry
from workflow_scripts.report.tables import DOMAINS, percent

TEMPLATES = Path(__file__).resolve().parents[2] / "reports" / "templates"
MISSING = "—"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "Δ": r"$\Delta$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "−": "$-$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


@functools.cache
def environment() -> jinja2.Environment:
    """Templates in reports/templates, everything escaped, an unknown name is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "shares": shares,
        "support": support,
        "number": number,
        "detectable": detectable,
        "signed": signed,
        "interval": interval,
        "percent": percent,
        "plain": plain,
        "place": place,
        "spoken": spoken,
        "measure": measure,
        "scale": scale,
        "estimate": estimate,
    }
    made.globals["LABELS"] = LABELS
    return made


def plain(value: float | None) -> str | float:
    """The number as it is; empty if it is missing."""
    return "" if value is None else value


def place(group: dict) -> str:
    """A judged group's place on the page."""
    return f"{group['model']} · {group['compressor']} · {group['corpus']}"


def records(table: pd.DataFrame) -> list[dict]:
    """The rows of a table, with None if a value is missing."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def spoken(word: str) -> str:
    """A name as text: `no_loss` is "no loss"."""
    return word.replace("_", " ")


def measure(metric: str) -> str:
    """A metric with the unit of its differences: "choice loglik (nats)"."""
    return f"{spoken(metric)} ({scale(metric)[2]})"


def signed_interval(estimate: dict, digits: int = 2) -> str:
    """ "[−0.10, +0.30]" of {low, high}, or nothing if there is none."""
    low, high = estimate["low"], estimate["high"]
    return "" if low is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def estimate(found: dict | None, factor: float, digits: int) -> dict[str, str]:
    """{value, ends} of {value, low, high} as text: "+2.1" and "[+0.2, +4.0]"; a dash and nothing if it is missing."""
    if found is None or found["value"] is None:
        return {"value": MISSING, "ends": ""}
    ends = {end: found[end] for end in ("value", "low", "high")}
    scaled = {end: None if number is None else factor * number for end, number in ends.items()}
    return {"value": signed(scaled["value"], digits), "ends": signed_interval(scaled, digits)}


def shares(part: dict) -> str:
    """ "31 / 57 / 12 %": of items, replicates and both in a variance; a dash with one replicate."""
    found = [part[f"{name}_share"] for name in ("items", "replicates", "residual")]
    return MISSING if None in found else f"{' / '.join(f'{100 * share:.0f}' for share in found)} %"


def support(share: float | None) -> float | None:
    """A label's share of the draws in percent, rounded as in the words of a verdict; None if it is missing."""
    return None if share is None else float(in_percent(share, 1))


def number(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def detectable(row: Row) -> str:
    """The smallest gain that is found; empty if it lies above the largest that can be."""
    return "" if row.finds_nothing else number(row.detectable, 1)


def signed(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:+z.{digits}f}".replace("-", "−")


def interval(entry: TableEntry, digits: int = 2) -> str:
    """ "[50.10, 52.30]", or nothing if there is none."""
    return "" if entry.low is None else f"[{entry.low:.{digits}f}, {entry.high:.{digits}f}]".replace("-", "−")


def to_csv(table: Table) -> str:
    """A row per method; each column with `_low`, `_high` and `_printed` beside it; percent, empty if missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["table", "compressor", "model", "corpus", "type", "method", "param"]
    for column in table.columns:
        head += [column, f"{column}_low", f"{column}_high", f"{column}_printed"]
    writer.writerow([*head, "gain", "gain_low", "gain_high", "p_holm", "detectable", "problem", "note"])
    for panel in table.panels:
        for row in panel.rows:
            cells = [table.number, panel.compressor, row.model, row.corpus, row.type, row.method, row.param]
            for column in table.columns:
                entry = row.entries[column]
                cells += [_plain(x) for x in (entry.value, entry.low, entry.high, entry.printed)]
            gain = (row.gain.value, row.gain.low, row.gain.high, row.p_holm, row.detectable)
            writer.writerow([*cells, *map(_plain, gain), row.problem, row.note])
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """GitHub's tables; the paper's printed value stands in parentheses, intervals of tasks in the CSV and HTML."""
    lines = [f"# {table.title}", "", f"Grid `{table.grid}`; made by `{table.command}`.", ""]
    head = ["model", "corpus", "type", "method", "Average [95 %]", "gain [95 %]", f"{INFORMATIVE} [95 %]"]
    head += ["detectable", "param", *table.tasks]
    for panel in table.panels:
        lines += [f"## {panel.title}", "", pipe(head), pipe(["---"] * 4 + ["--:"] * (len(head) - 4))]
        for row in panel.rows:
            average, informative = (_markdown_entry(row.entries[column], column) for column in MEANS)
            gain = " ".join(filter(None, [signed(row.gain.value, 1), interval(row.gain, 1)]))
            remarks = "; ".join(filter(None, [row.problem, row.note]))
            method = row.method + (f" ({remarks})" if remarks else "")
            means = [average, gain, informative, detectable(row)]
            entries = [_markdown_entry(row.entries[column], column) for column in table.tasks]
            lines.append(pipe([row.model, row.corpus, row.type, method, *means, row.param, *entries]))
        lines.append("")
    lines += [f"- {note}" for note in table.notes]
    if table.missing:
        lines.append(f"- Missing or incomplete: {'; '.join(table.missing)}.")
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A table float for each panel, in booktabs; the paper's printed value stands small beside ours, notes below."""
    parts = ["% needs \\usepackage{booktabs,graphicx}", f"% made by: {table.command}"]
    for panel in table.panels:
        columns = ["Model", "Corpus", "Method", "Average", "Gain", INFORMATIVE, "Detectable", "Param"]
        columns += table.tasks
        caption = f"{latex(table.title.partition('. ')[2])}: {latex(panel.title)}."
        parts += [
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\resizebox{\textwidth}{!}{%",
        ]
        parts += [rf"\begin{{tabular}}{{lll{'r' * (len(columns) - 3)}}}", r"\toprule"]
        parts.append(" & ".join(map(latex, columns)) + r" \\")
        above = None
        for row in panel.rows:
            if (row.model, row.corpus) != above:
                parts.append(r"\midrule")
                above = (row.model, row.corpus)
            remarks = "; ".join(filter(None, [row.problem, row.note]))
            method = latex(row.method) + (rf" {{\tiny ({latex(remarks)})}}" if remarks else "")
            average, informative = (_latex_entry(row.entries[column], column) for column in MEANS)
            cells = [latex(row.model), latex(row.corpus), method, average, _latex_gain(row), informative]
            cells += [latex(detectable(row)), latex(row.param)]
            cells += [_latex_entry(row.entries[column], column) for column in table.tasks]
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}}"]
        lacking = [f"Missing or incomplete: {'; '.join(table.missing)}."] if table.missing else []
        notes = " ".join(" ".join(note.split()) for note in [*table.notes, *lacking])
        parts += [r"\par\smallskip\raggedright\footnotesize", latex(notes), r"\end{table*}", ""]
    return "\n".join(parts) + "\n"


def to_html(table: Table) -> str:
    """One page with sortable tables that needs nothing beside itself."""
    return (
        environment().get_template("table_page.html.j2").render(table=table, domains=list(DOMAINS.values()))
    )


RENDERERS = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}


def latex(text: str) -> str:
    """Text with LaTeX's special characters escaped; a character that its default fonts lack becomes a question mark."""
    return "".join(_LATEX.get(c) or (c if c.isascii() or "À" <= c <= "ÿ" else "?") for c in text)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def pipe(cells: list) -> str:
    """A row of a Markdown table, its cells' own markup escaped."""
    return (
        "| "
        + " | ".join(re.sub(r"([|`<>*\\])", r"\\\1", str(cell)) if cell != "--:" else cell for cell in cells)
        + " |"
    )


def _markdown_entry(entry: TableEntry, column: str) -> str:
    printed = f"({entry.printed:.2f})" if entry.printed is not None else ""
    ends = interval(entry, 1) if column in MEANS else ""
    return " ".join(filter(None, [number(entry.value, 1), ends, printed]))


def _latex_entry(entry: TableEntry, column: str) -> str:
    text = latex(number(entry.value, 1))
    if column in DOMAINS.values() or column in MEANS:
        text = rf"\textbf{{{text}}}" if column in MEANS else rf"\textit{{{text}}}"
    if column in MEANS and entry.low is not None:
        text += rf" {{\tiny {latex(interval(entry, 1))}}}"
    return text if entry.printed is None else rf"{text} {{\tiny ({entry.printed:.2f})}}"


def _latex_gain(row: Row) -> str:
    if row.gain.value is None:
        return "---"
    ends = "" if row.gain.low is None else rf" {{\tiny {latex(interval(row.gain, 1))}}}"
    return rf"${row.gain.value:+z.1f}${ends}"
