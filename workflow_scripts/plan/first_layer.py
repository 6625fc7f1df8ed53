"""Reads from config.json how far a model's layers attend and how its first one does (IDP's scores are made there,
recover/idp.py), and how many positions keep one rotary table. Pure Python."""


def windows(config: dict) -> list[int | None]:
    """Most tokens that each layer attends to, with the query's own; None for a layer that config.json sets no limit."""
    window, types = config.get("sliding_window"), config.get("layer_types")
    count = len(types) if types else config.get("num_hidden_layers") or 1
    if not window or not config.get("use_sliding_window", True):
        return [None] * count
    if types:
        return [window if kind == "sliding_attention" else None for kind in types]
    full = config.get("max_window_layers") or 0  # the first ones of Qwen2
    return [None if layer < full else window for layer in range(count)]


def window(config: dict) -> int | None:
    """Most tokens that the first layer attends to; None if config.json sets no limit."""
    return windows(config)[0]


def peculiarity(config: dict) -> str | None:
    """How the first layer differs from those that the scores know, in words; None if config.json shows none."""
    rotary = config.get("rope_parameters") or {}
    if config.get("attn_logit_softcapping"):
        return "caps the attention's logits"
    if config.get("use_bidirectional_attention"):
        return "attends to tokens ahead"
    if rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)) < 1:
        return "rotates only a part of each head"
    return None


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
