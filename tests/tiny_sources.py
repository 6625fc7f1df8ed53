"""The tiny grid for `make equivalences`: each kind of source that needs no network, each method on each compressor.

Hub models lie in a hub cache, wheels in the folder where a fetch keeps them. Not here: data sets of the hub, pickled
weights, most readers of wheels, checkpoints of somebody else, and what is taught (docs/howto/upgrade.md).
"""

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pyarrow

from tests import tiny
from workflow_scripts.files.artifacts import sha256_file
from workflow_scripts.files.members import WHEELS

COMMIT = "0" * 39 + "1"
PARAMETERS = 40_000


def config(folder: Path, checkout: Path) -> dict:
    """The configuration; sources in `folder`, wheels where a fetch in `checkout` looks for them first."""
    found = tiny.config(folder)
    (wheels := checkout / WHEELS).mkdir(parents=True, exist_ok=True)
    texts, rows = (
        tiny.sentences(200, 9),
        [json.loads(line) for line in _lines(folder / "tasks/arc_easy.jsonl")],
    )
    whole = write_gguf(folder / "model", folder / "tiny.gguf").read_bytes()
    half = len(whole) // 2
    requests = [{"doc_id": number, "doc": _request(row)} for number, row in enumerate(rows)]
    passages = [
        json.loads(line)["text"].rpartition(" ") for line in _lines(folder / "tasks/lambada_openai.jsonl")
    ]
    last = [{"request": {"context": text, "continuation": f" {word}"}} for text, _, word in passages]
    article = '<doc id="1">\nTitle\n\n{}\n</doc>\n'.format
    data = {
        "tiny.gguf": whole,
        "wiki.utf8": "".join(map(article, texts)).encode(),
        "c4.utf8": "\n".join(tiny.sentences(200, 8)).encode(),
        "arc.jsonl.gz": _requests(requests),
        "arc.arrow": _arrow(rows),
        "lambada.jsonl.gz": _requests(last),
    }
    pieces = [
        wheel(wheels, f"piece-{number}", {"tiny.gguf.part": piece}) | {"file": "tiny.gguf.part"}
        for number, piece in enumerate((whole[:half], whole[half:]))
    ]
    topics = [{"question": f"what is near the {word}?", "answer": [word]} for word in tiny.WORDS[: len(rows)]]
    data["topics.jar"] = zipped(
        {"topics.txt": "".join(json.dumps(topic) + "\n" for topic in topics).encode()}
    )
    carried = {"source": "pypi"} | wheel(wheels, "carrier", data)
    size = {"parameters": PARAMETERS}
    found["models"] |= {
        "cached": hub_model(folder) | size,
        "carried": carried | {"file": "tiny.gguf"} | size,
        "filed": {"source": "gguf", "path": str(folder / "tiny.gguf")} | size,
        "pieces": {"source": "gguf", "parts": pieces, "file_sha256": sha256_file(folder / "tiny.gguf")}
        | size,
    }
    (folder / "plain.txt").write_text("\n\n".join(tiny.sentences(200, 7)))
    for seed, split in enumerate(("train", "heldout"), 5):
        tiny.write_corpus(folder / "split" / f"{split}.jsonl", 100, seed)
    found["corpora"] |= {
        "plain": {"source": "local", "path": str(folder / "plain.txt")},
        "split": {"source": "local", "path": str(folder / "split")},
        "articles": carried | {"file": "wiki.utf8", "reader": "wikipedia"},
        "lines": carried | {"file": "c4.utf8", "reader": "c4"},
    }
    tasks = {
        "arc-requests": ("arc_easy", "arc.jsonl.gz", "arc"),
        "arc-arrow": ("arc_easy", "arc.arrow", "arrow"),
        "lambada-requests": ("lambada_openai", "lambada.jsonl.gz", "lambada"),
        "webqs-topics": ("webqs", "topics.jar!topics.txt", "webqs"),
    }
    for name, (task, file, reader) in tasks.items():
        found["benchmarks"]["local"][name] = carried | {"file": file, "reader": reader, "items": len(rows)}
        found["tasks"][name] = {"domain": "world", "task": task}
    grid = found["grids"]["tiny"]
    grid["tasks"] += [*tasks]
    grid["evaluation"]["perplexity"]["corpora"] = [*found["corpora"]]
    grid["blocks"]["dense"]["models"] = [*found["models"]]
    grid["blocks"]["core"]["compressors"] = [*found["compressors"]]
    return found


def environment(folder: Path) -> dict[str, str]:
    """Variables by which the hub's library finds the models in `folder`, and asks nobody."""
    return {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


def hub_model(folder: Path) -> dict:
    """The tiny model's entry as a repository that the hub's cache in `folder` holds."""
    repository = folder / "hub" / "models--tiny--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot := repository / "snapshots" / COMMIT).mkdir(parents=True)
    for file in (folder / "model").iterdir():
        os.link(file, snapshot / file.name)
    return {"source": "hub", "repo": "tiny/tiny", "revision": COMMIT}


def wheel(folder: Path, package: str, files: dict[str, bytes]) -> dict:
    """Keys that pin a wheel with these files, after it was written."""
    path = folder / f"{package.replace('-', '_')}-1.0-py3-none-any.whl"
    path.write_bytes(zipped(files))
    return {"package": package, "version": "1.0", "sha256": sha256_file(path)}


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive, the same bytes at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def write_gguf(model: Path, file: Path) -> Path:
    """A random Llama of one layer in float32, with the tokenizer of the tiny model."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer = gguf.GGUFWriter(file, "llama")
    sizes = {"block_count": 1, "context_length": 512, "embedding_length": 32, "feed_forward_length": 64}
    for key, value in (sizes | {"head_count": 4, "head_count_kv": 4, "vocab_size": len(tokens)}).items():
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])
    generator = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    shapes |= {"blk.0.ffn_down": (32, 64)} | {
        f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", 0.05 * generator.standard_normal(shape).astype(np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _request(row: dict) -> dict:
    """An item of ARC as scoring requests hold it."""
    gold = row["choices"]["label"].index(row["answerKey"])
    query = f"Question: {row['question']}\nAnswer:"
    return {"id": row["id"], "query": query, "choices": row["choices"]["text"], "gold": gold}


def _requests(rows: list[dict]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def _arrow(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()
