# From evaluations to the report. These jobs only read files. Answers, ledger, verdict and page read every evaluation,
# but only the first names them as inputs: the others come after it, and Snakemake's time grows with inputs times rules.
# Tables and figures are drawn from verdict.json.


rule find_answers:
    input:
        rerun_roll_up_if_outdated("find_answers", layout.ANSWERS.name),
        evaluations,
    output:
        layout.ANSWERS.pattern,
    log:
        "logs/{grid}/find_answers.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("find_answers"),
    message:
        "Find the answers of {wildcards.grid} in the training text"
    script:
        "../workflow_scripts/jobs/find_answers.py"


rule build_ledger:
    input:
        rerun_roll_up_if_outdated("build_ledger", layout.LEDGER.name),
        answers=rolled_up(layout.ANSWERS.name),
    output:
        layout.LEDGER.pattern,
    log:
        "logs/{grid}/build_ledger.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("build_ledger"),
    message:
        "Build the item ledger of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/build_ledger.py"


rule judge:
    input:
        rerun_roll_up_if_outdated("judge", layout.VERDICT.name),
        ledger=rolled_up(layout.LEDGER.name),
    output:
        layout.VERDICT.pattern,
    log:
        "logs/{grid}/judge.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("judge"),
        command=untracked(lambda wildcards: PLAN.command(wildcards.grid)),
    message:
        "Judge {wildcards.grid}: paired statistics and verdict"
    script:
        "../workflow_scripts/jobs/judge.py"


rule tabulate:
    input:
        rerun_roll_up_if_outdated("tabulate", "tables/table1.html"),
        verdict=rolled_up(layout.VERDICT.name),
        compressions=compressions,
    output:
        expand(
            "results/{{grid}}/tables/table{number}.{format}",
            number=[1, 2, 3],
            format=FORMATS[:-1],
        ),
        expand(
            "results/{{grid}}/tables/{table}.{format}",
            table=["changes", "compressors"],
            format=["csv", "md"],
        ),
        html=[
            report(
                f"results/{{grid}}/tables/{table}.html",
                caption="../reports/captions/tables.rst",
                category="Tables",
                labels={"table": title},
            )
            for table, title in TABLES.items()
        ],
    log:
        "logs/{grid}/tabulate.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("tabulate"),
    message:
        "Tables of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/tabulate.py"


for figure in FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            rerun_roll_up_if_outdated("plot_figure", f"figures/{figure}.svg"),
            verdict=rolled_up(layout.VERDICT.name),
            trainings=trainings if figure == "training" else [],
            compressions=compressions if figure in ("figure1", "pareto") else [],
            similarities=similarities if figure == "figure5" else [],
            latencies=latencies if figure in ("latency", "pareto") else [],
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
        localrule: READ_HERE
        conda:
            "../envs/conda.yaml"
        resources:
            **READING_JOB,
        params:
            args=roll_up_arguments("plot_figure"),
            figure=figure,
        message:
            "Draw {params.figure} of {wildcards.grid}"
        script:
            "../workflow_scripts/jobs/plot_figure.py"


rule audit_paper:
    input:
        rerun_roll_up_if_outdated("audit_paper", "paper_audit.json"),
        verdict=rolled_up(layout.VERDICT.name),
    output:
        "results/{grid}/paper_audit.json",
        html=report(
            "results/{grid}/paper_audit.html",
            caption="../reports/captions/audit.rst",
            category="Paper audit",
            labels={"page": "The paper's statements, recomputed"},
        ),
    log:
        "logs/{grid}/audit_paper.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("audit_paper"),
    message:
        "Audit the paper's numbers beside those of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/audit_paper.py"


rule draw_page:
    input:
        rerun_roll_up_if_outdated("draw_page", layout.PAGE.name),
        verdict=rolled_up(layout.VERDICT.name),
        ledger=rolled_up(layout.LEDGER.name),
        audit=rolled_up("paper_audit.json"),
        figures=figures,
        compressions=compressions,
        trainings=trainings,
        similarities=similarities,
        latencies=latencies,
    output:
        report(
            layout.PAGE.pattern,
            caption="../reports/captions/overview.rst",
            category="Overview",
            labels={"page": "Verdict, tables, figures, ledger, cost"},
        ),
    log:
        "logs/{grid}/draw_page.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("draw_page"),
    message:
        "Draw the overview page of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/draw_page.py"


rule report_grid:
    input:
        rerun_roll_up_if_outdated("report_grid", layout.STAMP.name),
        tables,
        figures,
        rolled_up("paper_audit.html"),
        rolled_up(layout.PAGE.name),
    output:
        report=layout.REPORT.pattern,
        stamp=layout.STAMP.pattern,
    log:
        "logs/{grid}/report_grid.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("report_grid"),
    message:
        "Write the report of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/report_grid.py"
