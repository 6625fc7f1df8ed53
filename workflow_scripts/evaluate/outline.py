"""A fetched model in figures, for a configuration: the program that the command `new` starts.

It reads {folder, lora, benchmarks, tasks} from standard input, as commands/new.py writes it, and prints a JSON object:
parameters; layers; linears, the names of the decoder's that `lora` adapts; lora, its trained parameters; widest, inputs
of the widest linear; bos, whether one begins every text; longest {task: {tokens, line}}. No weight is read.
"""

import json
import sys
from pathlib import Path

from workflow_scripts.compress.decoder import decoder_layers, get_weight, linears_of
from workflow_scripts.evaluate.rehearsal import lengths_of
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.files.members import ITEMS
from workflow_scripts.recover.adapters import create, trained_parameters
from workflow_scripts.recover.lora import adapted_linears
from workflow_scripts.sources.models import adds_bos, load_tokenizer, load_whole


def outline(asked: dict) -> dict:
    """The figures, as the module says. asked: folder, of the model; lora, a method's slice; benchmarks, a folder per
    task; tasks, their settings by name."""
    folder = Path(asked["folder"])
    model, tokenizer = load_whole(folder, device="meta"), load_tokenizer(folder)
    layers = decoder_layers(model)
    linears = [linear for layer in layers for linear in linears_of(layer).values()]
    found: dict = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": len(layers),
        "widest": max(get_weight(linear).shape[1] for linear in linears),
        "bos": adds_bos(tokenizer),
        "longest": {},
    }
    for data in map(Path, asked["benchmarks"]):
        variant = asked["tasks"][data.name]
        task = load_task(
            data.name, data / ITEMS, None, None, tokenizer, variant["task"], variant["num_fewshot"]
        )
        lengths = [length.text for length in lengths_of(task, tokenizer)]
        longest = max(lengths)
        found["longest"][data.name] = {"tokens": longest, "line": task.lines[lengths.index(longest)] + 1}
    adapted = create(model, asked["lora"], seed=0)  # changes the model
    found["linears"] = list(adapted_linears(adapted))
    return found | {"lora": sum(parameter.numel() for parameter in trained_parameters(adapted))}


def main() -> int:
    """Print the figures of what standard input asks for."""
    print(json.dumps(outline(json.load(sys.stdin))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
