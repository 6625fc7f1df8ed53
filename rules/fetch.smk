localrules:
    fetch_model,
    fetch_corpus,
    fetch_benchmark,


rule fetch_model:
    output:
        manifest="resources/models/{model}/manifest.json",
    params:
        args=lambda wildcards: PLAN.fetch("models", wildcards.model),
    log:
        "logs/fetch_model/{model}.log",
    message:
        "Fetch the model {wildcards.model}"
    script:
        "../workflow_scripts/fetch_model.py"


rule fetch_corpus:
    output:
        manifest="resources/corpora/{corpus}/manifest.json",
    params:
        args=lambda wildcards: PLAN.fetch("corpora", wildcards.corpus),
    log:
        "logs/fetch_corpus/{corpus}.log",
    message:
        "Fetch the corpus {wildcards.corpus}"
    script:
        "../workflow_scripts/fetch_corpus.py"


rule fetch_benchmark:
    output:
        manifest="resources/benchmarks/{benchmarks}/{task}/manifest.json",
    params:
        args=lambda wildcards: PLAN.fetch("benchmarks", wildcards.benchmarks, wildcards.task),
    log:
        "logs/fetch_benchmark/{benchmarks}/{task}.log",
    message:
        "Fetch the task {wildcards.task} ({wildcards.benchmarks})"
    script:
        "../workflow_scripts/fetch_benchmark.py"
