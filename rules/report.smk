# From the verdict to the report. These jobs only read files; tables and figures are drawn from verdict.json. The page
# reads every evaluation without naming one as its input: it comes after the verdict.


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


rule plot_figures:
    input:
        rerun_roll_up_if_outdated("plot_figures", layout.figure(layout.FIGURES[0])),
        verdict=rolled_up(layout.VERDICT),
        trainings=trainings,
        compressions=compressions,
        similarities=similarities,
        latencies=latencies,
    output:
        [
            shown(
                layout.figure(name),
                caption=f"../reports/captions/{name}.rst",
                category="Figures",
                labels={"figure": name},
            )
            for name in layout.FIGURES
        ],
        [layout.figure(name, "pdf").pattern for name in layout.FIGURES],
    log:
        layout.figure(layout.FIGURES[0]).log,
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **READING_JOB,
    params:
        args=roll_up_arguments("plot_figures"),
    message:
        "Figures of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/plot_figures.py"


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
