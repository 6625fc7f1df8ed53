# From evaluations to the report. These jobs only read files. Answers, ledger, verdict and page read every evaluation,
# but only the first names them as inputs: the others come after it, and Snakemake's time grows with inputs times rules.
# Tables and figures are drawn from verdict.json.


rule find_answers:
    input:
        rerun_roll_up_if_outdated("find_answers", layout.ANSWERS),
        evaluations,
    output:
        layout.ANSWERS.pattern,
    log:
        layout.ANSWERS.log,
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
        rerun_roll_up_if_outdated("build_ledger", layout.LEDGER),
        answers=rolled_up(layout.ANSWERS),
    output:
        layout.LEDGER.pattern,
    log:
        layout.LEDGER.log,
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
        rerun_roll_up_if_outdated("judge", layout.VERDICT),
        ledger=rolled_up(layout.LEDGER),
    output:
        layout.VERDICT.pattern,
    log:
        layout.VERDICT.log,
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
        rerun_roll_up_if_outdated("tabulate", layout.table("table1")),
        verdict=rolled_up(layout.VERDICT),
        compressions=compressions,
    output:
        [
            layout.table(name, form).pattern
            for name, forms in layout.TABLES.items()
            for form in forms
            if form != "html"
        ],
        html=[
            report(
                layout.table(table).pattern,
                caption="../reports/captions/tables.rst",
                category="Tables",
                labels={"table": TITLES[table]},
            )
            for table in layout.TABLES
        ],
    log:
        layout.table("table1").log,
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


for figure in layout.FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            rerun_roll_up_if_outdated("plot_figure", layout.figure(figure)),
            verdict=rolled_up(layout.VERDICT),
            trainings=trainings if figure == "training" else [],
            compressions=compressions if figure in ("figure1", "pareto") else [],
            similarities=similarities if figure == "figure5" else [],
            latencies=latencies if figure in ("latency", "pareto") else [],
        output:
            report(
                layout.figure(figure).pattern,
                caption=f"../reports/captions/{figure}.rst",
                category="Figures",
                labels={"figure": figure},
            ),
            layout.figure(figure, "pdf").pattern,
        log:
            layout.figure(figure).log,
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
        rerun_roll_up_if_outdated("audit_paper", layout.AUDIT),
        verdict=rolled_up(layout.VERDICT),
    output:
        layout.AUDIT.pattern,
        html=report(
            layout.AUDIT_PAGE.pattern,
            caption="../reports/captions/audit.rst",
            category="Paper audit",
            labels={"page": "The paper's statements, recomputed"},
        ),
    log:
        layout.AUDIT.log,
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
        rerun_roll_up_if_outdated("draw_page", layout.PAGE),
        verdict=rolled_up(layout.VERDICT),
        ledger=rolled_up(layout.LEDGER),
        audit=rolled_up(layout.AUDIT),
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
        layout.PAGE.log,
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
        rerun_roll_up_if_outdated("report_grid", layout.STAMP),
        tables,
        figures,
        rolled_up(layout.AUDIT_PAGE),
        rolled_up(layout.PAGE),
    output:
        report=layout.REPORT.pattern,
        stamp=layout.STAMP.pattern,
    log:
        layout.REPORT.log,
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
