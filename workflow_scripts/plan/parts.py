"""The two parts of a task's items: one may be trained on, the other is then scored as never seen."""

PARTS = ("even", "odd")


def part_of(doc_hash: str) -> str:
    """`even` or `odd`: whether an item's hash (SHA-256 of its canonical JSON, hexadecimal) is an even number.

    The hash is the `doc_hash` of samples and ledger, so the parts are the same in every cell and for every budget.
    """
    return PARTS[int(doc_hash[-1], 16) % 2]
