"""Rule `audit_paper`: the printed tables (and our cells of the same settings) -> paper_audit.json and its page."""

from workflow_scripts.files.artifacts import atomic_path, read_json, write_json
from workflow_scripts.files.job import job
from workflow_scripts.judge.audit import audit
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.rendering import environment


def main(cells: list[str], verdict: str, output_json: str, output_html: str) -> None:
    """cells: paths of all cells that the grid plans."""
    report = audit(read_tables(), read_results(cells), read_json(verdict, schema="verdict"))
    write_json(output_json, report, schema="audit")
    with atomic_path(output_html) as temporary:
        temporary.write_text(environment().get_template("audit_page.html.j2").render(audit=report))


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.params.args["cells"],
            snakemake.input.verdict,
            snakemake.output.json,
            snakemake.output.html,
        )
