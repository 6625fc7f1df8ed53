rule train_adapter:
    input:
        rerun_if_outdated(layout.ADAPTER),
        model=input_by_recipe(layout.ADAPTER, RERUNS.model),
        compressed=input_by_recipe(layout.ADAPTER, RERUNS.compression),
        corpus=input_by_recipe(layout.ADAPTER, RERUNS.training_text),
        family=input_by_recipe(layout.ADAPTER, RERUNS.family),
        calibration_text=input_by_recipe(layout.ADAPTER, RERUNS.repair_text),
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
        args=arguments(layout.ADAPTER),
        code=code_of(layout.ADAPTER),
        activation_memory=untracked(lambda wildcards: config["activation_memory"]),
        checkpoint_minutes=untracked(lambda wildcards: PLAN.regime(wildcards.grid).checkpoint_minutes),
    message:
        "Make {wildcards.method} (seed {wildcards.seed}) for {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/train_adapter.py"
