"""A tiny model, tokenizer, corpus and task data of known content: the whole workflow on them takes seconds a job.

`python -m tests.tiny FOLDER` writes them there, with tiny.yaml, the configuration that names them.
"""

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path

import yaml

WORDS = """
    the river town stone light water house music winter garden king letter iron summer bridge forest
    north small great old first city island mountain horse silver market church road field ship
""".split()


def sentences(count: int, seed: int) -> list[str]:
    """`count` seeded documents of about 60 words."""
    draw = random.Random(seed)
    return [
        " ".join(
            " ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 9))).capitalize() + "."
            for _ in range(draw.randint(7, 10))
        )
        for _ in range(count)
    ]


def write_model(folder: Path, family: str = "llama") -> Path:
    """A random two-layer model (hidden 32) with a byte-level BPE tokenizer, saved as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(sentences(50, 0), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    torch.manual_seed(0)
    size = bpe.get_vocab_size()
    if family == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                tie_word_embeddings=True,
            )
        )
    else:
        model = OPTForCausalLM(
            OPTConfig(
                vocab_size=size,
                hidden_size=32,
                ffn_dim=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=512,
                word_embed_proj_dim=32,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_json(path: Path, **values: object) -> None:
    """Give keys of a JSON file other values."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_another_config(model: Path, folder: Path) -> Path:
    """A fetched model's copy in `folder`: the same weights, other position encodings."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_corpus(path: Path, documents: int = 400, seed: int = 1) -> Path:
    """A .jsonl corpus with one document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(documents, seed)))
    return path


def write_tasks(folder: Path, items: int = 8) -> dict[str, Path]:
    """Three tasks, one of each kind: multiple choice, last word, generation."""
    draw = random.Random(2)
    rows = {"arc_easy": [], "lambada_openai": [], "triviaqa": []}
    for index in range(items):
        words = draw.sample(WORDS, 8)
        rows["arc_easy"].append(
            {
                "id": f"q{index}",
                "question": f"What is near the {words[0]} {words[1]}?",
                "answerKey": "ABCD"[index % 4],
                "choices": {"text": [f"the {word}" for word in words[2:6]], "label": list("ABCD")},
            }
        )
        rows["lambada_openai"].append({"text": " ".join(words)})
        rows["triviaqa"].append(
            {
                "question": f"Which {words[0]} has a {words[1]}?",
                "question_id": f"t{index}",
                "question_source": "",
                "entity_pages": {},
                "search_results": {},
                "answer": {
                    "value": words[2],
                    "aliases": [words[2], words[3]],
                    "normalized_value": words[2],
                    "normalized_aliases": [words[2], words[3]],
                    "matched_wiki_entity_name": "",
                    "normalized_matched_wiki_entity_name": "",
                    "type": "FreeForm",
                },
            }
        )
    files = {}
    for task, documents in rows.items():
        files[task] = folder / f"{task}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        files[task].write_text("".join(json.dumps(document) + "\n" for document in documents))
    return files


def config(folder: Path) -> dict:
    """A configuration with one tiny grid (11 cells, 5 adapters, each kind of method) over local sources in `folder`."""
    tiny = yaml.safe_load(Path(__file__).with_name("tiny.yaml").read_text())
    tiny["models"]["tiny"]["path"] = str(write_model(folder / "model"))
    for seed, (name, corpus) in enumerate(tiny["corpora"].items(), 1):
        corpus["path"] = str(write_corpus(folder / f"{name}.jsonl", seed=seed))
    for task, file in write_tasks(folder / "tasks").items():
        tiny["benchmarks"]["local"][task]["path"] = str(file)
    return tiny


def main(folder: Path) -> Path:
    """Write the sources and, beside them, the configuration `tiny.yaml` that names them; returns its path."""
    made = config(folder.resolve())
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(made, sort_keys=False))
    return file


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("python -m tests.tiny FOLDER")
    print(
        f"Wrote {main(Path(sys.argv[1]))}: a file of your own stands behind it, --configfile FOLDER/tiny.yaml mine.yaml"
    )
