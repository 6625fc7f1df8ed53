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
    groups = {(group["compressor"], group["corpus"]): group["metrics"] for group in verdict["groups"]}
    page = (ROOT / "docs/explanation/statistics.md").read_text()
    section = page.split("## Models of known truth")[1].split("\n## ")[0]
    table, others = (
        [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
        for part in section.split("The same copies by the two other metrics")
    )
    found = rows(verdict, expected)
    assert len(table) - 1 == len(others) - 1 == len(found) == len(groups)
    for (copy, text, *said), row in zip(others[1:], found, strict=True):
        assert (f"truth-{copy.strip()}", TEXTS[text.strip()]) == (row.compressor, row.corpus)
        for metric, shown in zip(("choice_loglik", "bits_per_byte"), said, strict=True):
            other = groups[row.compressor, row.corpus][metric]["verdict"]
            word, _, support = shown.partition(":")
            assert words(word) == other["word"]
            assert all(part.strip() in other["reason"] for part in support.split(","))
    for (copy, text, wanted, said, support, *values), row in zip(table[1:], found, strict=True):
        assert (f"truth-{copy.strip()}", TEXTS[text.strip()]) == (row.compressor, row.corpus)
        assert (words(wanted), words(said)) == (row.expected, row.found)
        for part in support.split(","):
            assert part.strip() in row.reason
        shown = [float(value.replace("−", "-")) for value in values]
        numbers = groups[row.compressor, row.corpus]["accuracy"]["verdict"]["numbers"]
        true = [100 * numbers[name]["value"] for name in ("loss", "prompt", "lora")]
        assert shown == [float(re.sub(r"^-0\.0$", "0.0", f"{value:.1f}")) for value in true]
