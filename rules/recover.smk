rule train_adapter:
    input:
        renewed(
            "results/{grid}/adapters/{model}/{compressor}/{corpus}/{method}/seed-{seed}/training.json",
            lambda wildcards: PLAN.train(cell_of(wildcards)),
            stands_on=lambda wildcards: [compressed(wildcards)],
        ),
        model=model_input,
        compression=compression_input("adapters"),
        corpus=lambda wildcards: corpus_input(PLAN.training_corpus(cell_of(wildcards))),
    output:
        training="results/{grid}/adapters/{model}/{compressor}/{corpus}/{method}/seed-{seed}/training.json",
        config="results/{grid}/adapters/{model}/{compressor}/{corpus}/{method}/seed-{seed}/adapter_config.json",
        weights="results/{grid}/adapters/{model}/{compressor}/{corpus}/{method}/seed-{seed}/adapter_model.safetensors",
    log:
        "logs/{grid}/train_adapter/{model}/{compressor}/{corpus}/{method}/seed-{seed}.log",
    conda:
        "../envs/conda.yaml"
    threads: lambda wildcards: REQUESTS.threads(wildcards.model)
    resources:
        **model_job("train_adapter"),
    params:
        args=lambda wildcards: PLAN.train(cell_of(wildcards)),
        checkpoint_minutes=untracked(lambda wildcards: PLAN.regime(wildcards.grid)["checkpoint_minutes"]),
    message:
        "Train {wildcards.method} (seed {wildcards.seed}) for {wildcards.model} {wildcards.compressor} {wildcards.corpus}"
    script:
        "../workflow_scripts/jobs/train_adapter.py"
