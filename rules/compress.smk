rule compress_model:
    input:
        renewed(
            layout.COMPRESSED.pattern,
            lambda wildcards: PLAN.compress(**wildcards),
        ),
        model=model_input,
        corpus=calibration_corpus,
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
        args=lambda wildcards: PLAN.compress(**wildcards),
        activation_memory=untracked(lambda wildcards: config["activation_memory"]),
        optimum_python=untracked(lambda wildcards: config["optimum_python"]),
    message:
        "Compress {wildcards.model} with {wildcards.compressor} on {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/compress_model.py"


rule export_model:
    input:
        renewed(
            layout.EXPORTED.pattern,
            lambda wildcards: PLAN.export(**wildcards),
        ),
        model=model_input,
        compressed=lambda wildcards: settled(
            layout.compression_json(wildcards.grid, wildcards.model, wildcards.compressor, wildcards.corpus),
            PLAN.compress(wildcards.grid, wildcards.model, wildcards.compressor, wildcards.corpus)["recipe"],
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
        args=lambda wildcards: PLAN.export(**wildcards),
    message:
        "Export {wildcards.model} with {wildcards.compressor} on {wildcards.corpus} as {wildcards.form}"
    script:
        "../workflow_scripts/jobs/export_model.py"
