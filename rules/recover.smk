rule train_adapter:
    input:
        renewed(
            layout.ADAPTER.pattern,
            lambda wildcards: PLAN.train(cell_of(wildcards)),
            stands_on=lambda wildcards: [compressed(wildcards)],
        ),
        model=model_input,
        compressed=compression_input("adapters"),
        corpus=lambda wildcards: corpus_input(PLAN.training_corpus(cell_of(wildcards))),
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
        args=lambda wildcards: PLAN.train(cell_of(wildcards)),
        checkpoint_minutes=untracked(lambda wildcards: PLAN.regime(wildcards.grid).checkpoint_minutes),
    message:
        "Train {wildcards.method} (seed {wildcards.seed}) for {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/train_adapter.py"
