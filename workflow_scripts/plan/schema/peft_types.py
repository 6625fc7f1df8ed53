"""Methods of PEFT that may be asked for by name, and the options that their configuration classes know.

PEFT loads PyTorch, which this room never does. The options and their types are read from the text of PEFT's own
classes. What only a model can tell, whether it has the targets, `make check` and the training job find out.
"""

import ast
import builtins
import functools
import importlib.util
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workflow_scripts.plan.names import unknown

# Name -> folder below peft/tuners, configuration class, options that the name stands for. Each is tested against
# PEFT's own forward pass and loading.
PEFT_TYPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DORA": ("lora", "LoraConfig", {"use_dora": True}),
    "RSLORA": ("lora", "LoraConfig", {"use_rslora": True}),
    "IA3": ("ia3", "IA3Config", {}),
    "LOHA": ("loha", "LoHaConfig", {}),
    "LOKR": ("lokr", "LoKrConfig", {}),
    "VERA": ("vera", "VeraConfig", {}),
    "OFT": ("oft", "OFTConfig", {}),
    "BOFT": ("boft", "BOFTConfig", {}),
    "HRA": ("hra", "HRAConfig", {}),
    "FOURIERFT": ("fourierft", "FourierFTConfig", {}),
    "VBLORA": ("vblora", "VBLoRAConfig", {}),
    "RANDLORA": ("randlora", "RandLoraConfig", {}),
    "DELORA": ("delora", "DeloraConfig", {}),
    "MISS": ("miss", "MissConfig", {}),
    "ROAD": ("road", "RoadConfig", {}),
    "HIRA": ("hira", "HiraConfig", {}),
    "SHIRA": ("shira", "ShiraConfig", {}),
    "LN_TUNING": ("ln_tuning", "LNTuningConfig", {}),
}
_PROMPT = "is a prompt; kinds prompt and prefix train prompts, and cache them"
REFUSED = {
    "LORA": "is kind lora",
    "ADALORA": "changes its ranks by a schedule that the training loop does not run",
    "C3A": "changes a frozen layer's output in place, which the training loop's products do not allow",
    "GRALORA": "changes a frozen layer's output in place, which the training loop's products do not allow",
    "TRAINABLE_TOKENS": "trains the embedding, and with it a tied head: merged, it changes both",
    "OSF": "trains the weights themselves",
    **dict.fromkeys(
        ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING"), _PROMPT
    ),
}
_VARIANT = "is a method of its own, with a step or a loss that the training loop does not run"
_WITHOUT_IT = "would have no effect: it is read by a start that is not allowed here"
OURS = {  # options that are no one's choice, or that this pipeline could not keep its word with
    "modules_to_save": "would train whole modules, a tied head among them",
    "trainable_token_indices": "would train the embedding, and with it a tied head",
    "bias": "would train the frozen model's biases",
    "layer_replication": "would change the model's depth",
    "alora_invocation_tokens": "would switch the adapter on in the middle of a text",
    "target_parameters": "would reach beyond the decoder's linears",
    "use_qalora": "would have no effect: only PEFT's own layers of GPTQ read it",
    "qalora_group_size": "would have no effect: only PEFT's own layers of GPTQ read it",
    "megatron_config": "would have no effect: only layers of Megatron read it",
    "megatron_core": "would have no effect: only layers of Megatron read it",
    "fan_in_fan_out": "would have no effect: PEFT sets it by the layer",
    "ensure_weight_tying": "would have no effect: embedding and head are not adapted",
    "HIRA.rank_pattern": "would have no effect: PEFT gives all modules of HiRA one rank",
    "runtime_config": "would change no result",
    "save_only_topk_weights": "would save another adapter than was trained",
    **dict.fromkeys(("loftq_config", "eva_config", "corda_config", "lora_ga_config"), _WITHOUT_IT),
    **dict.fromkeys(
        ("velora_config", "monteclora_config", "use_bdlora", "arrow_config", "kasa_config"), _VARIANT
    ),
}
STARTS = (True, False, "gaussian", "orthogonal")  # of init_lora_weights
# Names of embeddings and heads in families of models.
OUTSIDE = (
    "embed_tokens",
    "embed_positions",
    "lm_head",
    "wte",
    "wpe",
    "embed_in",
    "embed_out",
    "word_embeddings",
)
OTHER_START = (
    "others change the frozen weights, which no saved adapter keeps, or need a step that is not run here"
)
TYPES = vars(builtins) | vars(typing)  # by the names that annotations have
DROPOUT = "would have no effect: the model stays in evaluation mode"


def problems(key: str, name: str, options: dict[str, Any]) -> Iterator[str]:
    """The mistakes in a method of PEFT by `name` with `options`, as messages that begin with the key's path."""
    if name in REFUSED:
        yield f"{key}.peft_type: {name} is not allowed: it {REFUSED[name]}"
    elif name not in PEFT_TYPES:
        yield unknown(f"{key}.peft_type", name, PEFT_TYPES, "method of PEFT that can be trained here")
    else:
        known = [option for option in known_options(name) if option not in OURS and "dropout" not in option]
        for option, value in options.items():
            where = f"{key}.options.{option}"
            if reason := OURS.get(option) or OURS.get(f"{name}.{option}"):
                yield f"{where}: is not allowed: it {reason}"
            elif "dropout" in option:
                yield f"{where}: is not allowed: it {DROPOUT}"
            elif option in PEFT_TYPES[name][2]:
                yield f"{where}: is set by the name {name}; remove it"
            elif known and option not in known:
                yield unknown(where, option, known, f"option of PEFT's {PEFT_TYPES[name][1]}")
            elif option == "init_lora_weights" and not (value in STARTS and isinstance(value, bool | str)):
                yield f"{where}: {value!r} is not allowed; allowed: true, false, gaussian, orthogonal; {OTHER_START}"
            elif known and not _fits(value, known_options(name)[option]):
                wanted = f"PEFT's {PEFT_TYPES[name][1]} wants {known_options(name)[option]}"
                yield f"{where}: {value!r} has the wrong type; {wanted}"
            elif option == "target_modules" and (outside := _outside(value)):
                yield f"{where}: {outside} lies outside the decoder layers; name others"


def _outside(targets: list[str] | str | None) -> str | None:
    """The first target that is an embedding or a head by its name; other names only a model can tell."""
    named = [targets] if isinstance(targets, str) else targets or ()
    return next((target for target in named if target.rpartition(".")[2] in OUTSIDE), None)


def _fits(value: object, annotation: str) -> bool:
    """True if a value is of the type that an annotation of PEFT's says: '8', true and 8.0 are no int."""
    try:
        TypeAdapter(_type(ast.parse(annotation, mode="eval").body)).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _type(node: ast.AST) -> Any:
    """The type, or the values, that a part of an annotation says; a class of PEFT's own counts as any."""
    if isinstance(node, ast.Tuple):
        return tuple(map(_type, node.elts))
    if isinstance(node, ast.BinOp):
        return _type(node.left) | _type(node.right)
    if isinstance(node, ast.Subscript):
        return _type(node.value)[_type(node.slice)]
    return node.value if isinstance(node, ast.Constant) else TYPES.get(getattr(node, "id", ""), Any)


@functools.cache
def known_options(name: str) -> dict[str, str]:
    """Options of a method of PEFT -> their types as its class writes them; none if PEFT is not installed here."""
    folder, wanted, _ = PEFT_TYPES[name]
    found = importlib.util.find_spec("peft")  # finds the package without running it
    if found is None or found.origin is None:
        return {}
    file = Path(found.origin).parent / "tuners" / folder / "config.py"
    (definition,) = (
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == wanted
    )
    fields = (node for node in definition.body if isinstance(node, ast.AnnAssign))
    return {
        node.target.id: ast.unparse(node.annotation) for node in fields if isinstance(node.target, ast.Name)
    }
