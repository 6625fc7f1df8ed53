localrules:
    fetch_model,
    fetch_checkpoint,
    fetch_corpus,
    fetch_benchmark,


rule fetch_model:
    input:
        inputs(layout.MODEL),
    output:
        manifest=layout.MODEL.pattern,
    log:
        layout.MODEL.log,
    wildcard_constraints:
        model=one_of(name for name in PLAN.config.models if not PLAN.lesson("models", name)),
    conda:
        "../envs/conda.yaml"
    params:
        **parameters(layout.MODEL, details=lambda wildcards: PLAN.details("models", wildcards.model)),
    message:
        "Fetch the model {wildcards.model}"
    script:
        "../workflow_scripts/jobs/fetch_model.py"


rule fetch_checkpoint:
    input:
        inputs(layout.CHECKPOINT),
    output:
        manifest=layout.CHECKPOINT.pattern,
    log:
        layout.CHECKPOINT.log,
    wildcard_constraints:
        compressor=one_of(name for name in PLAN.config.compressors if not PLAN.lesson("compressors", name)),
    conda:
        "../envs/conda.yaml"
    params:
        **parameters(
            layout.CHECKPOINT, details=lambda wildcards: PLAN.details("compressors", wildcards.compressor)
        ),
    message:
        "Fetch the checkpoint {wildcards.compressor}"
    script:
        "../workflow_scripts/jobs/fetch_checkpoint.py"


rule fetch_corpus:
    input:
        inputs(layout.CORPUS),
    output:
        manifest=layout.CORPUS.pattern,
    log:
        layout.CORPUS.log,
    conda:
        "../envs/conda.yaml"
    params:
        **parameters(layout.CORPUS, details=lambda wildcards: PLAN.details("corpora", wildcards.corpus)),
    message:
        "Fetch the corpus {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/fetch_corpus.py"


rule fetch_benchmark:
    input:
        inputs(layout.BENCHMARK),
    output:
        manifest=layout.BENCHMARK.pattern,
    log:
        layout.BENCHMARK.log,
    conda:
        "../envs/conda.yaml"
    params:
        **parameters(
            layout.BENCHMARK,
            details=lambda wildcards: PLAN.details("benchmarks", wildcards.benchmarks, wildcards.task),
            variant=lambda wildcards: PLAN.variant(wildcards.task),
        ),
    message:
        "Fetch the task {wildcards.task} ({wildcards.benchmarks})"
    script:
        "../workflow_scripts/jobs/fetch_benchmark.py"
