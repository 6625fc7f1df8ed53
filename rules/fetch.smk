localrules:
    fetch_model,
    fetch_corpus,
    fetch_benchmark,


rule fetch_model:
    input:
        renewed(
            "resources/models/{model}/manifest.json", lambda wildcards: PLAN.fetch("models", wildcards.model)
        ),
    output:
        manifest="resources/models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
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
            "resources/corpora/{corpus}/manifest.json",
            lambda wildcards: PLAN.fetch("corpora", wildcards.corpus),
        ),
    output:
        manifest="resources/corpora/{corpus}/manifest.json",
    log:
        "logs/fetch_corpus/{corpus}.log",
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
            "resources/benchmarks/{benchmarks}/{task}/manifest.json",
            lambda wildcards: PLAN.fetch("benchmarks", wildcards.benchmarks, wildcards.task),
        ),
    output:
        manifest="resources/benchmarks/{benchmarks}/{task}/manifest.json",
    log:
        "logs/fetch_benchmark/{benchmarks}/{task}.log",
    conda:
        "../envs/conda.yaml"
    params:
        args=lambda wildcards: PLAN.fetch("benchmarks", wildcards.benchmarks, wildcards.task),
        said=untracked(lambda wildcards: PLAN.said("benchmarks", wildcards.benchmarks, wildcards.task)),
    message:
        "Fetch the task {wildcards.task} ({wildcards.benchmarks})"
    script:
        "../workflow_scripts/jobs/fetch_benchmark.py"
