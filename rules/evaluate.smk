rule evaluate_cell:
    input:
        inputs(
            layout.EVALUATION,
            model=RERUNS.model,
            compressed=RERUNS.compression,
            adapters=RERUNS.adapters,
            benchmarks=RERUNS.benchmarks,
            corpora=RERUNS.perplexity_text,
            training_text=RERUNS.centring_text,
        ),
    output:
        # `update`: a finished cell that runs again is there until the new one is; Snakemake puts it back if that fails.
        record=update(
            report(
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
            )
        ),
        samples=update(layout.EVALUATION.companions[0]),
    log:
        layout.EVALUATION.log,
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("evaluate_cell"),
    params:
        **parameters(
            layout.EVALUATION,
            contents=lambda wildcards: PLAN.definitions(wildcards.grid),
            elsewhere=lambda wildcards: layout.EVALUATION.path(**dict(wildcards.items()) | {"grid": "*"}),
            stands_for=lambda wildcards: PLAN.adopted_codes(layout.Cell.of(wildcards)),
        ),
    message:
        "Evaluate {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method} (seed {wildcards.seed})"
    script:
        "../workflow_scripts/jobs/evaluate_cell.py"


rule measure_similarity:
    input:
        inputs(
            layout.SIMILARITY,
            model=RERUNS.model,
            compressed=RERUNS.compression,
            adapters=RERUNS.adapters,
            corpus=RERUNS.similarity_text,
            training_text=RERUNS.centring_text,
        ),
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
        **parameters(layout.SIMILARITY),
    message:
        "Similarity to dense: {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method}"
    script:
        "../workflow_scripts/jobs/measure_similarity.py"


rule measure_latency:
    input:
        inputs(
            layout.LATENCY,
            model=RERUNS.model,
            compressed=RERUNS.compression,
        ),
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
        **parameters(layout.LATENCY),
    message:
        "Latency of {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/measure_latency.py"
