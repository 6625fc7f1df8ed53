# From evaluations to the report. These jobs only read files. They read every evaluation, but only the first two name
# them as inputs: the others come after these, and Snakemake's time grows with inputs times rules.


rule find_answers:
    input:
        renewed("results/{grid}/answers.parquet", analysis("find_answers.py"), "find_answers.py"),
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
        args=analysis("find_answers.py"),
    message:
        "Find the answers of {wildcards.grid} in the training text"
    script:
        "../workflow_scripts/find_answers.py"


rule build_ledger:
    input:
        renewed("results/{grid}/ledger.parquet", analysis("build_ledger.py"), "build_ledger.py"),
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
        args=analysis("build_ledger.py"),
    message:
        "Build the item ledger of {wildcards.grid}"
    script:
        "../workflow_scripts/build_ledger.py"


rule judge:
    input:
        renewed("results/{grid}/verdict.json", analysis("judge.py"), "judge.py"),
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
        args=analysis("judge.py"),
        command=untracked(lambda wildcards: PLAN.command(wildcards.grid)),
    message:
        "Judge {wildcards.grid}: paired statistics and verdict"
    script:
        "../workflow_scripts/judge.py"


rule tabulate:
    input:
        renewed("results/{grid}/tables/table1.html", analysis("tabulate.py"), "tabulate.py"),
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
        args=analysis("tabulate.py"),
    message:
        "Tables of {wildcards.grid}"
    script:
        "../workflow_scripts/tabulate.py"


for figure in FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            renewed(f"results/{{grid}}/figures/{figure}.svg", analysis("plot_figure.py"), "plot_figure.py"),
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
            args=analysis("plot_figure.py"),
            figure=figure,
        message:
            "Draw {params.figure} of {wildcards.grid}"
        script:
            "../workflow_scripts/plot_figure.py"


rule audit_paper:
    input:
        renewed("results/{grid}/paper_audit.json", analysis("audit_paper.py"), "audit_paper.py"),
        verdict=made("verdict.json"),
    output:
        json="results/{grid}/paper_audit.json",
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
        args=analysis("audit_paper.py"),
    message:
        "Audit the paper's numbers beside those of {wildcards.grid}"
    script:
        "../workflow_scripts/audit_paper.py"


rule draw_page:
    input:
        renewed("results/{grid}/overview.html", analysis("draw_page.py"), "draw_page.py"),
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
        args=analysis("draw_page.py"),
    message:
        "Draw the overview page of {wildcards.grid}"
    script:
        "../workflow_scripts/draw_page.py"


rule report_grid:
    input:
        renewed("results/{grid}/report.json", analysis("write_report.py")),
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
        args=analysis("write_report.py"),
    message:
        "Write the report of {wildcards.grid}"
    script:
        "../workflow_scripts/write_report.py"
