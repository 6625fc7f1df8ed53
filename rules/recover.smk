rule train_adapter:
    input:
        inputs(
            layout.ADAPTER,
            model=RERUNS.model,
            compressed=RERUNS.compression,
            corpus=RERUNS.training_text,
            family=RERUNS.family,
            asked=RERUNS.asked,
            calibration_text=RERUNS.repair_text,
        ),
    output:
        record=layout.ADAPTER.pattern,
        config=layout.ADAPTER.companions[0],
        weights=layout.ADAPTER.companions[1],
    log:
        layout.ADAPTER.log,
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("train_adapter"),
    params:
        **parameters(
            layout.ADAPTER,
            activation_memory=lambda wildcards: config["activation_memory"],
            checkpoint_minutes=lambda wildcards: PLAN.regime(wildcards.grid).checkpoint_minutes,
        ),
    message:
        "Make {wildcards.method} (seed {wildcards.seed}) for {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/train_adapter.py"
