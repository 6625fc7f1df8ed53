"""Mixtures of experts: transformers keeps the experts of a layer in one tensor, which no linear holds. So no compressor
takes them, and no adapter of all linears; prompts, and LoRA beside the linears of attention, do."""

from workflow_scripts.plan.schema.methods import Eora, Lora, Method, Peft

# Keys of config.json: experts of a mixture; flags with which a dense model of the same class keeps such a key (Doge).
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
DENSE_FLAGS = ("is_moe", "enable_moe_block")
OTHER_TARGETS = ("LN_TUNING", "IA3")  # of PEFT's methods, those whose default is not all linears


def experts(config: dict) -> int | None:
    """How many experts each layer of a mixture has, by its config.json; None for another model."""
    if any(config.get(flag) is False for flag in DENSE_FLAGS):
        return None
    found = [config.get(key) for key in EXPERTS]
    return max((count for count in found if isinstance(count, int) and count > 1), default=None)


def needs_linears(method: Method) -> bool:
    """True if a method adapts every linear of a layer."""
    if isinstance(method, Peft):
        return "target_modules" not in method.options and method.peft_type not in OTHER_TARGETS
    return isinstance(method, Eora) or (isinstance(method, Lora) and method.start == "eora")
