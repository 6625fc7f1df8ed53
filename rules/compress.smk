rule compress_model:
    input:
        inputs(
            layout.COMPRESSED,
            model=RERUNS.model,
            corpus=RERUNS.calibration_text,
            checkpoint=RERUNS.checkpoint,
        ),
    output:
        compression=layout.COMPRESSED.pattern,
        weights=layout.COMPRESSED.companions[0],
    log:
        layout.COMPRESSED.log,
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("compress_model"),
    params:
        **parameters(
            layout.COMPRESSED,
            activation_memory=lambda wildcards: config["activation_memory"],
            optimum_python=lambda wildcards: config["optimum_python"],
            llmcompressor_python=lambda wildcards: config["llmcompressor_python"],
        ),
    message:
        "Compress {wildcards.model} with {wildcards.compressor} on {wildcards.corpus} (seed {wildcards.seed})"
    script:
        "../workflow_scripts/jobs/compress_model.py"


rule export_model:
    input:
        inputs(
            layout.EXPORTED,
            model=RERUNS.model,
            compressed=RERUNS.compression,
        ),
    output:
        layout.EXPORTED.pattern,
    log:
        layout.EXPORTED.log,
    wildcard_constraints:
        form=one_of(layout.EXPORTS),
    conda:
        "../envs/conda.yaml"
    resources:
        **REQUESTS.where("cpu_partition" if SITE["cpu_partition"] else "partition"),
        mem_mb=lambda wildcards, attempt: REQUESTS.mem_mb("export_model", wildcards, attempt),
        runtime=lambda wildcards, attempt: REQUESTS.runtime("export_model", wildcards, attempt),
    params:
        **parameters(layout.EXPORTED),
    message:
        "Export {wildcards.model} with {wildcards.compressor} on {wildcards.corpus} (seed {wildcards.seed}) as {wildcards.form}"
    script:
        "../workflow_scripts/jobs/export_model.py"
