"""Rule `audit_paper`: the printed tables (and our cells of the same settings) -> paper_audit.json and its page."""

from workflow_scripts.files.artifacts import atomic_path, read_json, write_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.audit import audit
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.rendering import environment


def main(cells: list[str], verdict: str, output: str, html: str) -> None:
    """cells: paths of all cells that the grid plans."""
    report = audit(read_tables(), read_results(cells), read_json(verdict, schema="verdict"))
    write_json(output, report, schema="audit")
    with atomic_path(html) as temporary:
        temporary.write_text(environment().get_template("audit_page.html.j2").render(audit=report))


if __name__ == "__main__":
    run(main)
