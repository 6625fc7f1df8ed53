"""Methods of PEFT that may be asked for by name, and the options that their configuration classes know.

PEFT loads PyTorch, which this room never does. The options are read from the text of PEFT's own classes.
"""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
OURS = {  # options that are no one's choice, or that this pipeline could not keep its word with
    "modules_to_save": "would train whole modules, a tied head among them",
    "trainable_token_indices": "would train the embedding, and with it a tied head",
    "bias": "would train the frozen model's biases",
    "layer_replication": "would change the model's depth",
    "alora_invocation_tokens": "would switch the adapter on in the middle of a text",
    "target_parameters": "would reach beyond the decoder's linears",
}
DROPOUT = "would have no effect: the model stays in evaluation mode"


def problems(key: str, name: str, options: dict[str, Any]) -> Iterator[str]:
    """The mistakes in a method of PEFT by `name` with `options`, as messages that begin with the key's path."""
    if name in REFUSED:
        yield f"{key}.peft_type: {name} is not allowed: it {REFUSED[name]}"
    elif name not in PEFT_TYPES:
        yield unknown(f"{key}.peft_type", name, PEFT_TYPES, "method of PEFT that can be trained here")
    else:
        known = [option for option in known_options(name) if option not in OURS and "dropout" not in option]
        for option in options:
            where = f"{key}.options.{option}"
            if option in OURS:
                yield f"{where}: is not allowed: it {OURS[option]}"
            elif "dropout" in option:
                yield f"{where}: is not allowed: it {DROPOUT}"
            elif option in PEFT_TYPES[name][2]:
                yield f"{where}: is set by the name {name}; remove it"
            elif known and option not in known:
                yield unknown(where, option, known, f"option of PEFT's {PEFT_TYPES[name][1]}")


@functools.cache
def known_options(name: str) -> tuple[str, ...]:
    """The fields of the configuration class of a method of PEFT; none if PEFT is not installed here."""
    folder, wanted, _ = PEFT_TYPES[name]
    found = importlib.util.find_spec("peft")  # finds the package without running it
    if found is None or found.origin is None:
        return ()
    file = Path(found.origin).parent / "tuners" / folder / "config.py"
    (definition,) = (
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == wanted
    )
    fields = (node.target for node in definition.body if isinstance(node, ast.AnnAssign))
    return tuple(target.id for target in fields if isinstance(target, ast.Name))
