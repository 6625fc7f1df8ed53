rule evaluate_cell:
    input:
        rerun_if_outdated(layout.EVALUATION),
        model=input_by_recipe(layout.EVALUATION, RERUNS.model),
        compressed=input_by_recipe(layout.EVALUATION, RERUNS.compression),
        adapters=input_by_recipe(layout.EVALUATION, RERUNS.adapters),
        benchmarks=input_by_recipe(layout.EVALUATION, RERUNS.benchmarks),
        corpora=input_by_recipe(layout.EVALUATION, RERUNS.perplexity_text),
        training_text=input_by_recipe(layout.EVALUATION, RERUNS.centring_text),
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
        args=arguments(layout.EVALUATION),
        code=code_of(layout.EVALUATION),
        elsewhere=untracked(
            lambda wildcards: layout.EVALUATION.path(**dict(wildcards.items()) | {"grid": "*"})
        ),
    message:
        "Evaluate {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method} (seed {wildcards.seed})"
    script:
        "../workflow_scripts/jobs/evaluate_cell.py"


rule measure_similarity:
    input:
        rerun_if_outdated(layout.SIMILARITY),
        model=input_by_recipe(layout.SIMILARITY, RERUNS.model),
        compressed=input_by_recipe(layout.SIMILARITY, RERUNS.compression),
        adapters=input_by_recipe(layout.SIMILARITY, RERUNS.adapters),
        corpus=input_by_recipe(layout.SIMILARITY, RERUNS.similarity_text),
        training_text=input_by_recipe(layout.SIMILARITY, RERUNS.centring_text),
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
        args=arguments(layout.SIMILARITY),
        code=code_of(layout.SIMILARITY),
    message:
        "Similarity to dense: {wildcards.model} {wildcards.compressor} {wildcards.corpus} {wildcards.method}"
    script:
        "../workflow_scripts/jobs/measure_similarity.py"


rule measure_latency:
    input:
        rerun_if_outdated(layout.LATENCY),
        model=input_by_recipe(layout.LATENCY, RERUNS.model),
        compressed=input_by_recipe(layout.LATENCY, RERUNS.compression),
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
        args=arguments(layout.LATENCY),
        code=code_of(layout.LATENCY),
    message:
        "Latency of {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/measure_latency.py"
