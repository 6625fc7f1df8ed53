# Models and checkpoints whose knowledge is known (grid truth): made where others are fetched.
rule teach_model:
    input:
        inputs(
            layout.MODEL,
            base=RERUNS.base_of_model,
        ),
    output:
        manifest=layout.MODEL.pattern,
    log:
        layout.TAUGHT_MODEL.log,
    wildcard_constraints:
        model=one_of(name for name in PLAN.config.models if PLAN.lesson("models", name)),
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("teach_model"),
    params:
        **parameters(layout.MODEL, details=lambda wildcards: PLAN.details("models", wildcards.model)),
    message:
        "Teach the model {wildcards.model}"
    script:
        "../workflow_scripts/jobs/teach_model.py"


rule teach_checkpoint:
    input:
        inputs(
            layout.CHECKPOINT,
            base=RERUNS.base_of_checkpoint,
        ),
    output:
        manifest=layout.CHECKPOINT.pattern,
    log:
        layout.TAUGHT_CHECKPOINT.log,
    wildcard_constraints:
        compressor=one_of(name for name in PLAN.config.compressors if PLAN.lesson("compressors", name)),
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(PLAN.lesson("compressors", wildcards.compressor).base)
    resources:
        **model_job("teach_checkpoint"),
    params:
        **parameters(
            layout.CHECKPOINT, details=lambda wildcards: PLAN.details("compressors", wildcards.compressor)
        ),
    message:
        "Teach the copy {wildcards.compressor}"
    script:
        "../workflow_scripts/jobs/teach_model.py"
