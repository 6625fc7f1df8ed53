"""Rule `audit_paper`: the printed tables, verdict.json -> paper_audit.json and its page."""

from workflow_scripts.files.artifacts import atomic_path, read_json, write_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.audit import audit
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import results_of
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.report.rendering import environment


def main(verdict: str, output: str, html: str) -> None:
    """Write both; verdict, output, html: paths."""
    judged = read_json(verdict, schema="verdict")
    report = audit(read_tables(), results_of(judged), judged)
    write_json(output, report, schema="audit")
    with atomic_path(html) as temporary:
        temporary.write_text(
            environment().get_template("audit_page.html.j2").render(audit=report), encoding="utf-8"
        )


if __name__ == "__main__":
    run(main, unchanged("audit_paper"))
