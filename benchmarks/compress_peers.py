"""One compression by a peer, in the peer's own environment, which has none of this package's other libraries.

    python benchmarks/compress_peers.py TASK.json

compress.py writes the task and starts this: peer, model (folder), windows (safetensors, `windows` (count, length)),
compressor (settings as in config.yaml), options (further settings of the peer), precision, threads, batch (windows per
forward pass), output (folder for the result: dense weights in Hugging Face's layout). The last line printed is JSON:
{seconds, peak_mb, loaded_mb, versions}. Counted is the peer's call from a loaded model to compressed weights in memory.
"""

import json
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak_mb() -> int:
    """Peak resident memory of this process in MiB; getrusage's would start at what the parent had at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def write_plain(dense: str, weights: dict, folder) -> None:
    """The dense model with the linears of `weights` (full name -> (out, in)) in place of its own, float32."""
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    for name, weight in weights.items():
        model.get_submodule(name).weight.data.copy_(weight)
    model.save_pretrained(folder)


def gptqmodel(task: dict, windows: torch.Tensor) -> dict:
    """GPTQModel with its defaults, but for what the compressor asks for: grid, grouping, order of columns."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    wanted = task["compressor"]
    options = {
        "bits": wanted["bits"],
        "group_size": wanted["group_size"] or -1,
        "sym": wanted["symmetric"],
        "desc_act": wanted["act_order"],
        "act_group_aware": False,
        "format": "gptq_v2",
        "device": "cpu",
    }
    config = QuantizeConfig(**options | task["options"])
    model = GPTQModel.load(task["model"], config, dtype=DTYPES[task["precision"]])
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in windows]
    loaded, begin = peak_mb(), time.perf_counter()
    model.quantize(rows, batch_size=task["batch"])
    cost = {"seconds": time.perf_counter() - begin, "peak_mb": peak_mb(), "loaded_mb": loaded}
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        stored = GPTQModel.load(folder, device="cpu", backend=BACKEND.GPTQ_TORCH)
        weights = {}
        for name, module in stored.model.named_modules():
            if isinstance(module, BaseQuantLinear):
                module.scales = module.scales.float()  # its levels without a rounding to float16 after them
                weights[name] = module.dequantize_weight().T.float()
    write_plain(task["model"], weights, task["output"])
    return cost | {"versions": {"gptqmodel": version("gptqmodel")}}


def llmcompressor(task: dict, windows: torch.Tensor) -> dict:
    """llm-compressor's GPTQModifier or SparseGPTModifier with its defaults, but for what the compressor asks for."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning import SparseGPTModifier
    from torch.utils.data import DataLoader

    wanted = task["compressor"]
    if wanted["algorithm"] == "gptq":
        grid = {
            "num_bits": wanted["bits"],
            "type": "int",
            "symmetric": wanted["symmetric"],
            "strategy": "group" if wanted["group_size"] else "channel",
            "group_size": wanted["group_size"],
        }
        options = {"actorder": "static" if wanted["act_order"] else None} | task["options"]
        groups = {"group_0": {"targets": ["Linear"], "weights": grid}}
        recipe = GPTQModifier(config_groups=groups, ignore=["lm_head"], **options)
    else:
        structure = wanted["pattern"] or "0:0"
        n, m = map(int, structure.split(":"))
        sparsity = wanted.get("sparsity") or n / m
        recipe = SparseGPTModifier(
            sparsity=sparsity, mask_structure=structure, ignore=["lm_head"], **task["options"]
        )
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=DTYPES[task["precision"]])
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in windows]
    loader = DataLoader(rows, batch_size=task["batch"])
    loaded, begin = peak_mb(), time.perf_counter()
    oneshot(model=model, tokenizer=task["model"], dataset=loader, recipe=recipe)
    cost = {"seconds": time.perf_counter() - begin, "peak_mb": peak_mb(), "loaded_mb": loaded}
    weights = {name: model.get_submodule(name).weight.detach() for name in names}
    write_plain(task["model"], weights, task["output"])
    return cost | {"versions": {"llmcompressor": version("llmcompressor")}}


def main(path: str) -> None:
    task = json.loads(Path(path).read_text())
    torch.set_num_threads(task["threads"])
    windows = load_file(task["windows"])["windows"]
    found = {"gptqmodel": gptqmodel, "llmcompressor": llmcompressor}[task["peer"]](task, windows)
    found["versions"]["torch"] = torch.__version__
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
