rule evaluate_cell:
    input:
        renewed(
            layout.EVALUATION.pattern,
            lambda wildcards: PLAN.evaluate(cell_of(wildcards)),
            stands_on=what_cells_stand_on,
        ),
        model=model_input,
        compressed=compression_input("evaluations"),
        adapters=attached("evaluations"),
        benchmarks=task_data,
        corpora=perplexity_text,
        training_text=training_text,
    output:
        record=report(
            layout.EVALUATION.pattern,
            caption="../reports/captions/evaluation.rst",
            category="Cells",
            labels={
                "model": "{model}",
                "compressor": "{compressor}",
                "corpus": "{corpus}",
                "method": "{method}",
                "seed": "{seed}",
            },
        ),
        samples=layout.EVALUATION.companions[0],
    log:
        layout.EVALUATION.log,
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("evaluate_cell"),
    params:
        args=lambda wildcards: PLAN.evaluate(cell_of(wildcards)),
    message:
        "Evaluate {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method} (seed {wildcards.seed})"
    script:
        "../workflow_scripts/jobs/evaluate_cell.py"


rule measure_similarity:
    input:
        renewed(
            layout.SIMILARITY.pattern,
            lambda wildcards: PLAN.similarity(cell_of(wildcards)),
            stands_on=what_cells_stand_on,
        ),
        model=model_input,
        compressed=compression_input("similarity"),
        adapters=attached("similarity"),
        corpus=lambda wildcards: corpus_input(PLAN.grid(wildcards.grid).compared.corpus),
        training_text=training_text,
    output:
        layout.SIMILARITY.pattern,
    log:
        layout.SIMILARITY.log,
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("measure_similarity"),
    params:
        args=lambda wildcards: PLAN.similarity(cell_of(wildcards)),
    message:
        "Similarity to dense: {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method}"
    script:
        "../workflow_scripts/jobs/measure_similarity.py"


rule measure_latency:
    input:
        renewed(
            layout.LATENCY.pattern,
            lambda wildcards: PLAN.latency(**wildcards),
            stands_on=lambda wildcards: [compressed(wildcards)],
        ),
        model=model_input,
        compressed=compression_input("latency"),
    output:
        layout.LATENCY.pattern,
    log:
        layout.LATENCY.log,
    conda:
        "../envs/conda.yaml"
    # All cores of a run on one machine: a neighbour would be measured too.
    threads: lambda wildcards: REQUESTS.threads(wildcards.model) if on_cluster() else workflow.cores
    resources:
        **model_job("measure_latency"),
    params:
        args=lambda wildcards: PLAN.latency(**wildcards),
    message:
        "Latency of {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/measure_latency.py"
