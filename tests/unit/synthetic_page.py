"""All entries of the analysis on made-up results, one after the other, as the workflow calls them."""

from pathlib import Path

from tests.unit.report.test_figures import LATENCY, TRAINING
from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.files.artifacts import write_json
from workflow_scripts.jobs import (
    audit_paper,
    build_ledger,
    draw_page,
    find_answers,
    judge,
    plot_figures,
    tabulate,
)
from workflow_scripts.judge.judgement import Question
from workflow_scripts.report.data import MeasuredFiles

GAINS = {"lora-r4": 0.1, "prompt-50": 0.05, "prompt-100": 0.06, "idp-50-100": 0.1}
LOST = ("m", "gptq-w3", "wikipedia", "prompt-50", 0)


def analysed(folder: Path, items: int = 8, truth: dict | None = None) -> tuple[Path, list[str]]:
    """Make everything but Snakemake's report in `folder`; returns the results' folder and the planned cells."""
    cells = write_grid(folder, truth or study("m", GAINS), items=items, skip={LOST})
    results = folder / "results/synthetic"
    training = results / "adapters/m/gptq-w3/wikipedia/lora-r4/seed-0/training.json"
    latency = results / "latency/m/gptq-w3/wikipedia/seed-0.json"
    manifest = {"device": "made-up device", "host": "nowhere", "seconds": 1.0}
    for path, record in ((training, TRAINING), (latency, LATENCY)):
        write_json(path, record | {"manifest": manifest})
    find_answers.main(cells, {}, {}, results / "answers.parquet")
    build_ledger.main(cells, PAIR, results / "answers.parquet", results / "ledger.parquet")
    judge.main(cells, Question(PAIR), CATALOGUE, results / "ledger.parquet", results / "verdict.json")
    tables = [str(results / "tables" / f"{name}.html") for name in ("table1", "table2", "table3", "changes")]
    tabulate.main(results / "verdict.json", CATALOGUE, MeasuredFiles(), tables)
    figures = [str(results / "figures" / f"{name}.svg") for name in ("figure3", "gains")]
    plot_figures.main(results / "verdict.json", CATALOGUE, MeasuredFiles(), {}, figures)
    audit = (results / "paper_audit.json", results / "paper_audit.html")
    audit_paper.main(results / "verdict.json", *audit)
    made = draw_page.Made(results / "verdict.json", results / "ledger.parquet", audit[0], figures)
    measured = MeasuredFiles(trainings=[str(training)], latencies=[str(latency)])
    blocks = {"counted": ["core"], "left_out": ["seeds", "figure-1"]}
    planned = draw_page.Planned("A <b>made-up</b> grid.", {"similarity": 3, "latency": 2}, blocks)
    draw_page.main(cells, CATALOGUE, made, measured, planned, results / "overview.html")
    return results, cells
