"""The table of known truths on the page of statistics is that of reports/truth."""

import re

from tests.docs.examples import ROOT
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.config import read
from workflow_scripts.report.truth import rows

TEXTS = {"general": "wikipedia", "with facts": "wikipedia-facts"}


def words(text: str) -> str:
    return text.strip().strip("*").replace(" ", "_")


def test_the_table_of_known_truths_is_that_of_the_archive():
    archive = ROOT / "reports/truth"
    verdict = read_json(archive / "results/truth/verdict.json", schema="verdict")
    expected = read(archive / "config.yaml")["grids"]["truth"]["expected"]
    numbers = {
        (group["compressor"], group["corpus"]): group["metrics"]["accuracy"]["verdict"]["numbers"]
        for group in verdict["groups"]
    }
    page = (ROOT / "docs/explanation/statistics.md").read_text()
    section = page.split("## Models of known truth")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    found = rows(verdict, expected)
    assert len(table) == len(found) == len(numbers)
    for (copy, text, wanted, said, support, *values), row in zip(table, found, strict=True):
        assert (f"truth-{copy.strip()}", TEXTS[text.strip()]) == (row.compressor, row.corpus)
        assert (words(wanted), words(said)) == (row.expected, row.found)
        for part in support.split(","):
            assert part.strip() in row.reason
        shown = [float(value.replace("−", "-")) for value in values]
        true = [
            100 * numbers[row.compressor, row.corpus][name]["value"] for name in ("loss", "prompt", "lora")
        ]
        assert shown == [float(re.sub(r"^-0\.0$", "0.0", f"{value:.1f}")) for value in true]
