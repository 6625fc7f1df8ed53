"""What config.json says of a model's first layer, in which IDP's scores are made (recover/idp.py), and of the positions
that keep one rotary table. Pure Python."""


def window(config: dict) -> int | None:
    """Tokens that the first layer attends to at most, the query's own among them; None: all before it."""
    types = config.get("layer_types")
    slides = types[0] == "sliding_attention" if types else not config.get("max_window_layers")
    return config.get("sliding_window") if slides and config.get("use_sliding_window", True) else None


def peculiarity(config: dict) -> str | None:
    """In what the first layer differs from those that the scores know, in words; None if nothing shows here."""
    rotary = config.get("rope_parameters") or {}
    if config.get("attn_logit_softcapping"):
        return "caps the attention's logits"
    if rotary.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)) < 1:
        return "rotates only a part of each head"
    return None


def one_rotary_table(config: dict) -> int | None:
    """Positions up to which a pass has the same rotary table whatever is in it; None where it always has.

    Of `longrope` and `dynamic` tables the one for a pass follows its largest position. So a text beyond the original
    length would change the numbers of every other text in its row, of itself by what it is packed with; and keys of a
    prompt that was encoded alone would be turned by another table than the text behind them.
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
