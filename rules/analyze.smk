# From evaluations to the report. These jobs read files only and take seconds.
FIGURES = [*(f"figure{number}" for number in range(1, 8)), "training", "latency"]
FORMATS = ["csv", "md", "tex", "html"]


def existing(files):
    """With `--config partial=true` the roll-up goes on with what exists; what lacks is shown as missing."""
    return [
        ancient(file) for file in files if not config["partial"] or os.path.exists(file)
    ]


def evaluations(wildcards):
    return existing(cells(wildcards.grid))


def trainings(wildcards):
    return existing(adapter.training for adapter in PLAN.adapters(wildcards.grid))


def similarities(wildcards):
    return existing(cell.similarity for cell in PLAN.similarity_cells(wildcards.grid))


def tables(wildcards):
    return expand(
        f"results/{wildcards.grid}/tables/table{{number}}.html", number=[1, 2, 3]
    )


def figures(wildcards):
    return expand(f"results/{wildcards.grid}/figures/{{figure}}.svg", figure=FIGURES)


def analysis(entry):
    return lambda wildcards: PLAN.analysis(wildcards.grid, entry)


localrules:
    build_ledger,
    judge,
    tabulate,
    audit_paper,
    report_grid,


rule build_ledger:
    input:
        evaluations,
    output:
        "results/{grid}/ledger.parquet",
    log:
        "logs/{grid}/build_ledger.log",
    params:
        args=analysis("build_ledger.py"),
    message:
        "Build the item ledger of {wildcards.grid}"
    script:
        "../workflow_scripts/build_ledger.py"


rule judge:
    input:
        evaluations,
    output:
        "results/{grid}/verdict.json",
    log:
        "logs/{grid}/judge.log",
    params:
        args=analysis("judge.py"),
    message:
        "Judge {wildcards.grid}: paired statistics and verdict"
    script:
        "../workflow_scripts/judge.py"


rule tabulate:
    input:
        evaluations,
        verdict=ancient("results/{grid}/verdict.json"),
    output:
        expand(
            "results/{{grid}}/tables/table{number}.{format}",
            number=[1, 2, 3],
            format=FORMATS[:-1],
        ),
        html=report(
            expand("results/{{grid}}/tables/table{number}.html", number=[1, 2, 3]),
            caption="../reports/captions/tables.rst",
            category="Tables",
        ),
    log:
        "logs/{grid}/tabulate.log",
    params:
        args=analysis("tabulate.py"),
    message:
        "Tables 1 to 3 of {wildcards.grid}"
    script:
        "../workflow_scripts/tabulate.py"


for figure in FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            evaluations,
            verdict=ancient("results/{grid}/verdict.json"),
            trainings=trainings if figure == "training" else [],
            similarities=similarities if figure == "figure5" else [],
        output:
            report(
                f"results/{{grid}}/figures/{figure}.svg",
                caption=f"../reports/captions/{figure}.rst",
                category="Figures",
                labels={"figure": figure},
            ),
            f"results/{{grid}}/figures/{figure}.pdf",
        log:
            f"logs/{{grid}}/plot_{figure}.log",
        localrule: True
        params:
            args=analysis("plot_figure.py"),
            figure=figure,
            message:
            f"Draw {figure} of {{wildcards.grid}}"
        script:
            "../workflow_scripts/plot_figure.py"


rule audit_paper:
    input:
        evaluations,
        verdict=ancient("results/{grid}/verdict.json"),
    output:
        json="results/{grid}/paper_audit.json",
        html=report(
            "results/{grid}/paper_audit.html",
            caption="../reports/captions/audit.rst",
            category="Paper audit",
        ),
    log:
        "logs/{grid}/audit_paper.log",
    params:
        args=analysis("audit_paper.py"),
    message:
        "Audit the paper's numbers beside those of {wildcards.grid}"
    script:
        "../workflow_scripts/audit_paper.py"


rule report_grid:
    input:
        evaluations,
        tables,
        figures,
        ancient("results/{grid}/ledger.parquet"),
        ancient("results/{grid}/verdict.json"),
        ancient("results/{grid}/paper_audit.html"),
    output:
        report="results/{grid}/report.html",
    log:
        "logs/{grid}/report_grid.log",
    params:
        args=analysis("write_report.py"),
    message:
        "Write the report of {wildcards.grid}"
    script:
        "../workflow_scripts/write_report.py"
