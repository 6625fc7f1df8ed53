# From evaluations to the verdict. These jobs only read files. Answers, ledger and verdict read every evaluation, but only
# the first names them as inputs: the others come after it, and Snakemake's time grows with inputs times rules. It names
# also what a measurement may have made again, deleted weights: Snakemake passes over an outdated job behind a job that
# runs, unless a chain of jobs that run leads there, and finished cells do not run.


rule find_answers:
    input:
        rerun_roll_up_if_outdated("find_answers", layout.ANSWERS),
        evaluations,
        remade,
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


rule audit_paper:
    input:
        rerun_roll_up_if_outdated("audit_paper", layout.AUDIT),
        verdict=rolled_up(layout.VERDICT),
    output:
        layout.AUDIT.pattern,
        html=shown(
            layout.AUDIT_PAGE,
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
