localrules:
    fetch_model,
    fetch_corpus,
    fetch_benchmark,


rule fetch_model:
    input:
        renewed(layout.MODEL.pattern, lambda wildcards: PLAN.fetch("models", wildcards.model)),
    output:
        manifest=layout.MODEL.pattern,
    log:
        layout.MODEL.log,
    conda:
        "../envs/conda.yaml"
    params:
        args=lambda wildcards: PLAN.fetch("models", wildcards.model),
        said=untracked(lambda wildcards: PLAN.said("models", wildcards.model)),
    message:
        "Fetch the model {wildcards.model}"
    script:
        "../workflow_scripts/jobs/fetch_model.py"


rule fetch_corpus:
    input:
        renewed(
            layout.CORPUS.pattern,
            lambda wildcards: PLAN.fetch("corpora", wildcards.corpus),
        ),
    output:
        manifest=layout.CORPUS.pattern,
    log:
        layout.CORPUS.log,
    conda:
        "../envs/conda.yaml"
    params:
        args=lambda wildcards: PLAN.fetch("corpora", wildcards.corpus),
        said=untracked(lambda wildcards: PLAN.said("corpora", wildcards.corpus)),
    message:
        "Fetch the corpus {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/fetch_corpus.py"


rule fetch_benchmark:
    input:
        renewed(
            layout.BENCHMARK.pattern,
            lambda wildcards: PLAN.fetch("benchmarks", wildcards.benchmarks, wildcards.task),
        ),
    output:
        manifest=layout.BENCHMARK.pattern,
    log:
        layout.BENCHMARK.log,
    conda:
        "../envs/conda.yaml"
    params:
        args=lambda wildcards: PLAN.fetch("benchmarks", wildcards.benchmarks, wildcards.task),
        said=untracked(lambda wildcards: PLAN.said("benchmarks", wildcards.benchmarks, wildcards.task)),
    message:
        "Fetch the task {wildcards.task} ({wildcards.benchmarks})"
    script:
        "../workflow_scripts/jobs/fetch_benchmark.py"
