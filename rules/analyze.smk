# From evaluations to the report. These jobs only read files. They read every evaluation, but only the first two name
# them as inputs: the others come after these, and Snakemake's time grows with inputs times rules.


rule find_answers:
    input:
        renewed("results/{grid}/answers.parquet", analysis("find_answers"), "find_answers"),
        evaluations,
    output:
        "results/{grid}/answers.parquet",
    log:
        "logs/{grid}/find_answers.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **reading_job(),
    params:
        args=analysis("find_answers"),
    message:
        "Find the answers of {wildcards.grid} in the training text"
    script:
        "../workflow_scripts/jobs/find_answers.py"


rule build_ledger:
    input:
        renewed("results/{grid}/ledger.parquet", analysis("build_ledger"), "build_ledger"),
        answers=made("answers.parquet"),
    output:
        "results/{grid}/ledger.parquet",
    log:
        "logs/{grid}/build_ledger.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **reading_job(),
    params:
        args=analysis("build_ledger"),
    message:
        "Build the item ledger of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/build_ledger.py"


rule judge:
    input:
        renewed("results/{grid}/verdict.json", analysis("judge"), "judge"),
        evaluations,
    output:
        "results/{grid}/verdict.json",
    log:
        "logs/{grid}/judge.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **reading_job(),
    params:
        args=analysis("judge"),
        command=untracked(lambda wildcards: PLAN.command(wildcards.grid)),
    message:
        "Judge {wildcards.grid}: paired statistics and verdict"
    script:
        "../workflow_scripts/jobs/judge.py"


rule tabulate:
    input:
        renewed("results/{grid}/tables/table1.html", analysis("tabulate"), "tabulate"),
        verdict=made("verdict.json"),
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
        **reading_job(),
    params:
        args=analysis("tabulate"),
    message:
        "Tables of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/tabulate.py"


for figure in FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            renewed(f"results/{{grid}}/figures/{figure}.svg", analysis("plot_figure"), "plot_figure"),
            verdict=made("verdict.json"),
            trainings=trainings if figure == "training" else [],
            compressions=compressions if figure == "pareto" else [],
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
            **reading_job(),
        params:
            args=analysis("plot_figure"),
            figure=figure,
        message:
            "Draw {params.figure} of {wildcards.grid}"
        script:
            "../workflow_scripts/jobs/plot_figure.py"


rule audit_paper:
    input:
        renewed("results/{grid}/paper_audit.json", analysis("audit_paper"), "audit_paper"),
        verdict=made("verdict.json"),
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
        **reading_job(),
    params:
        args=analysis("audit_paper"),
    message:
        "Audit the paper's numbers beside those of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/audit_paper.py"


rule draw_page:
    input:
        renewed("results/{grid}/overview.html", analysis("draw_page"), "draw_page"),
        verdict=made("verdict.json"),
        ledger=made("ledger.parquet"),
        audit=made("paper_audit.json"),
        figures=figures,
        compressions=compressions,
        trainings=trainings,
        similarities=similarities,
        latencies=latencies,
    output:
        report(
            "results/{grid}/overview.html",
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
        **reading_job(),
    params:
        args=analysis("draw_page"),
    message:
        "Draw the overview page of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/draw_page.py"


rule report_grid:
    input:
        renewed("results/{grid}/report.json", analysis("report_grid")),
        tables,
        figures,
        made("paper_audit.html"),
        made("overview.html"),
    output:
        report="results/{grid}/report.html",
        stamp="results/{grid}/report.json",
    log:
        "logs/{grid}/report_grid.log",
    localrule: READ_HERE
    conda:
        "../envs/conda.yaml"
    resources:
        **reading_job(),
    params:
        args=analysis("report_grid"),
    message:
        "Write the report of {wildcards.grid}"
    script:
        "../workflow_scripts/jobs/report_grid.py"
