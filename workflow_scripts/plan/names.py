"""Words for a name that nothing has: the names that are allowed, and the nearest. Imports no library."""

import difflib
from collections.abc import Iterable


def nearest(name: object, allowed: Iterable[object]) -> str:
    """'; did you mean ...?' with the allowed name nearest to `name`; empty if none is near."""
    close = difflib.get_close_matches(str(name), [str(each) for each in allowed], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def listed(names: Iterable[object], most: int = 24) -> str:
    """The names joined by commas; of more than `most`, the first ones and how many there are."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")


def unknown(key: str, name: object, allowed: Iterable[object], kind: str) -> str:
    """The message for a name that is not among the allowed ones: its key, the allowed names, the nearest."""
    allowed = list(allowed)
    return f"{key}: {name!r} is no {kind}; allowed: {listed(allowed)}{nearest(name, allowed)}"
