"""Whether cells of a model can be evaluated, and methods applied to it, as its class in transformers tells."""

from pathlib import Path
from typing import Any

from workflow_scripts.sources.model_folder import UNBUILT, unbuilt


def unscorable(folder: Path) -> str | None:
    """Why no cell of a model can be evaluated, in words, as its class tells; None if it doesn't.

    Rows of many documents are packed through transformers' pluggable attention, which older classes lack. Prompts stand
    before the input of the decoder, whose output training reads: it must be a module of its own. Of a model that reads
    images too, config.json holds the decoder's widths, windows and positions in a part of its own, which no check of a
    configuration reads.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from workflow_scripts.kernels.attention_asked import unpackable

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    made: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if made is None:
        return f"transformers has no causal language model for {config.model_type}"
    if not getattr(made, "_supports_attention_backend", False):
        return f"{made.__name__} has no pluggable attention (transformers' AttentionInterface), which packed rows need"
    if (text := config.get_text_config(decoder=True)) is not config:
        return (
            f"its decoder ({text.model_type}) is a part of a model with other inputs ({config.model_type}); save the "
            "language model alone, with a config.json of its own"
        )
    try:
        with torch.device("meta"):
            # A maker's own attention (flash_attention_2) may need a library that nothing here uses.
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except UNBUILT as error:
        return unbuilt(error)
    decoder, embeddings = model.get_decoder(), model.get_input_embeddings()
    if decoder is model or not any(module is embeddings for module in decoder.modules()):
        return f"{made.__name__} has no decoder of its own (`get_decoder`), before which prompts would stand"
    return unpackable(model)
