"""What config.json says of a model's first layer, in which IDP's scores are made (recover/idp.py). Pure Python."""


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
