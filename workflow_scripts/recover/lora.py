"""LoRA: y = W x + (alpha / r) B A x with A (r, in) and B (out, r); W frozen. Source: Hu et al. (ICLR 2022)."""

from pathlib import Path

from peft import LoraConfig, PeftModel


def lora_config(method: dict, model) -> LoraConfig:
    """PEFT's configuration. `targets` maps config.model_type (or `default`) to names of linear layers.

    PEFT trains the targets that it finds and passes over the others; here one that isn't there is a ValueError.
    The paper prints neither alpha nor dropout nor the layers; which layers give its counts is in the design, 6.
    """
    targets, model_type = method["targets"], model.config.model_type
    if model_type not in targets and "default" not in targets:
        raise ValueError(
            f"targets: no entry for model type {model_type!r} and no `default`, only {', '.join(targets)}"
        )
    chosen = list(targets.get(model_type) or targets["default"])
    names = [f".{name}" for name, _ in model.named_modules()]
    if absent := [target for target in chosen if not any(name.endswith(f".{target}") for name in names)]:
        raise ValueError(f"targets: {model_type} has no module {', '.join(absent)}")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method["rank"],
        lora_alpha=method["alpha"],
        lora_dropout=method["dropout"],
        target_modules=chosen,
        layers_to_transform=method["layers"],
        bias="none",
    )


def load(model, folder: Path) -> PeftModel:
    """The model with the trained A and B beside its weights (unmerged), in evaluation mode."""
    return PeftModel.from_pretrained(model, str(folder)).eval()


def merge(recovered: PeftModel):
    """The plain model with (alpha / r) B A added to W: what an unmerged adapter costs in latency is gone."""
    return recovered.merge_and_unload(safe_merge=True)
