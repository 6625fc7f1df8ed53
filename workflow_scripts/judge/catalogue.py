"""Facts of the catalogue that the analysis needs: the members of a method, the zeros that a compressor leaves."""

SPARSE = ("sparsegpt", "wanda", "magnitude")  # algorithms that prune


def member_names(method: dict) -> list[str]:
    """The adapters of a method that combines several."""
    return [member["adapter"] for member in method.get("members", ())]


def sparsity(settings: dict) -> float | None:
    """Share of zero weights: the setting, or n/m of an n:m pattern; None for a compressor that prunes nothing."""
    if pattern := settings.get("pattern"):
        zeros, columns = map(int, pattern.split(":"))
        return zeros / columns
    return settings.get("sparsity") if settings["algorithm"] in SPARSE else None
