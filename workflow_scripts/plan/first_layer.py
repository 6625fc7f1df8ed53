"""Reads from config.json how far a model's layers attend and how its first one does (IDP's scores are made there,
recover/idp.py), how many tokens no chunk cuts, and how many positions keep one rotary table. Pure Python."""

# Keys that `window` reads.
WINDOW_KEYS = ("sliding_window", "use_sliding_window", "layer_types", "max_window_layers")


def window(config: dict, layer: int = 0) -> int | None:
    """Most tokens that a layer attends to, with the query's own; None if config.json sets no limit."""
    most, types = config.get("sliding_window"), config.get("layer_types")
    if not most or not config.get("use_sliding_window", True):
        return None
    full = config.get("max_window_layers") or 0  # the first ones of Qwen2
    slides = types[layer] == "sliding_attention" if types else layer >= full
    return most if slides else None


def chunk(config: dict) -> int | None:
    """Most tokens of a text whose layers attend to all of it before; None if config.json cuts no text into chunks.

    Beyond them a token of Llama 4 attends to its own chunk alone, which a window does not say.
    """
    return (
        config.get("attention_chunk_size")
        if "chunked_attention" in (config.get("layer_types") or ())
        else None
    )


def peculiarity(config: dict) -> str | None:
    """The difference of the first layer from those that the scores know, in words; None if config.json shows none."""
    if config.get("attn_logit_softcapping"):
        return "caps the attention's logits"
    if config.get("use_bidirectional_attention"):
        return "attends to tokens ahead"
    return None


def rotates_a_part(config: dict) -> bool:
    """True if only a part of each head is rotated: the scores follow classes whose rotation says which (GLM-4,
    Nemotron), and not those whose attention cuts the heads itself (Phi, StableLM)."""
    rotary = config.get("rope_parameters") or {}
    return rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)) < 1


def one_rotary_table(config: dict) -> int | None:
    """Positions up to which every pass has the same rotary table; None if all positions have.

    A `longrope` or `dynamic` table depends on the largest position of a pass. A text beyond the original length would
    change the numbers of every other text in its row, and its own would depend on what it is packed with. Keys of a
    prompt that was encoded alone would be rotated by another table than the text behind them.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    tables = parameters.values() if all(isinstance(p, dict) for p in parameters.values()) else [parameters]
    limits = []
    for table in tables:
        kind = table.get("rope_type") or table.get("type") or ""
        if kind == "longrope" or "dynamic" in kind:
            original = "original_max_position_embeddings"
            limits.append(
                table.get(original) or config.get(original) or config.get("max_position_embeddings")
            )
    return min(filter(None, limits), default=None)
