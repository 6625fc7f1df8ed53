"""Whether held-out documents stand in training text: among other text, or with other spaces, marks or capitals.

Texts are compared by their letters and digits alone, as windows of WIDTH of them (13 words or so, the 13-grams by which
Brown et al., arXiv 2005.14165, looked for test data in training data). A document that is shorter has windows of the
largest of SHORTER that it holds; below these, documents are only compared whole (corpora.separate).
"""

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

WIDTH = 64
SHORTER = (32, 16)
WORD = re.compile(r"[^\W_]+")  # letters and digits
CHUNK = 2**20  # letters that are hashed at once: a document may be a whole library
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
BITS = np.uint64(40)  # of a hash; the others are its place in a table


def words(text: str, word: re.Pattern = WORD) -> list[str]:
    """The words of a text in order, small and in the usual form of their letters."""
    return word.findall(unicodedata.normalize("NFKC", text).casefold())


def shares(heldout: list[str], train: list[str]) -> np.ndarray:
    """Share of each held-out document's windows that stand in any training document: float64 (len(heldout),)."""
    letters = [_letters(text) for text in heldout]
    widths = [_width(len(each)) for each in letters]
    sought = {}
    for width in {width for width in widths if width is not None}:
        sought[width] = _Sought(
            [each for each, own in zip(letters, widths, strict=True) if own == width], width
        )
    for text in train:
        plain = _letters(text)
        for each in sought.values():
            each.look_in(plain)
    found = {width: each.found() for width, each in sought.items()}
    return np.array([0.0 if width is None else next(found[width]) for width in widths])


class _Sought:
    """Windows of held-out documents, all of one width, and which of them were seen in training text."""

    def __init__(self, documents: list[np.ndarray], width: int) -> None:
        self.width = width
        self.documents = documents
        self.hashes = np.unique(
            np.concatenate([part for each in documents for part in _windows(each, width)])
        )
        self.seen = np.zeros(len(self.hashes), dtype=bool)
        self.likely = np.zeros(2 ** (64 - int(BITS)), dtype=bool)  # most windows need no search then
        self.likely[self.hashes >> BITS] = True

    def look_in(self, letters: np.ndarray) -> None:
        for windows in _windows(letters, self.width):
            candidates = windows[self.likely[windows >> BITS]]
            places = np.minimum(np.searchsorted(self.hashes, candidates), len(self.hashes) - 1)
            self.seen[places[self.hashes[places] == candidates]] = True

    def found(self) -> Iterator[float]:
        """Share of each document's windows that were seen."""
        for each in self.documents:
            windows = np.concatenate([*_windows(each, self.width)])
            yield float(self.seen[np.searchsorted(self.hashes, windows)].mean())


def _letters(text: str) -> np.ndarray:
    """Letters and digits of a text, small and in their usual form, as code points: uint64 (letters,)."""
    return np.frombuffer("".join(words(text)).encode("utf-32-le"), dtype="<u4").astype(np.uint64)


def _width(letters: int) -> int | None:
    return next((width for width in (WIDTH, *SHORTER) if letters >= width), None)


def _windows(letters: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Hashes of all windows of `width` letters, a power of 2, in chunks: uint64 (windows,)."""
    for start in range(0, len(letters) - width + 1, CHUNK):
        hashes = letters[start : start + CHUNK + width - 1]
        size = 1
        while size < width:  # of two neighbours of `size` letters, one of twice as many
            left, right = hashes[:-size] * MULTIPLIER, hashes[size:]
            hashes = ((left ^ (left >> np.uint64(29))) + right) * MULTIPLIER
            size *= 2
        yield hashes
