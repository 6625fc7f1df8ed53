rule compress_model:
    input:
        renewed(
            "results/{grid}/compressed/{model}/{compressor}/{corpus}/compression.json",
            lambda wildcards: PLAN.compress(**wildcards),
        ),
        unpack(compression_inputs),
    output:
        compression="results/{grid}/compressed/{model}/{compressor}/{corpus}/compression.json",
        weights="results/{grid}/compressed/{model}/{compressor}/{corpus}/weights.safetensors",
    log:
        "logs/{grid}/compress_model/{model}/{compressor}/{corpus}.log",
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: threads_for(wildcards.model)
    resources:
        **model_job("compress_model"),
    params:
        args=lambda wildcards: PLAN.compress(**wildcards),
    message:
        "Compress {wildcards.model} with {wildcards.compressor} on {wildcards.corpus}"
    script:
        "../workflow_scripts/compress_model.py"
