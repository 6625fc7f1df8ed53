"""Makes a checkpoint with its maker's library, or scores one with it, in the maker's own environment.

    python -P benchmarks/foreign_peers.py TASK.json

foreign.py writes the task and starts this: action (make, score), maker (see CASES there), dense (folder), folder (of
the checkpoint), tokens (safetensors: windows to score and `calibration`, both (count, length)), items (of each its
choices, of each choice the token ids of context and continuation), threads, runtime (whether activations are quantised
as the maker's library does it; of a plain folder, as the package in the folder `package` simulates it), output (JSON:
nll, nats per token; answers, the likeliest choice of each item; versions).
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

BATCH = 10  # items


def make(task: dict) -> list[str]:
    """Write the maker's checkpoint of the dense model to task["folder"]; the libraries that did it."""
    windows = load_file(task["tokens"])["calibration"]
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in windows]
    if task["maker"] == "llmcompressor":
        from llmcompressor import oneshot
        from llmcompressor.pipelines.cache import IntermediatesCache
        from torch.utils.data import DataLoader
        from transformers import AutoModelForCausalLM

        IntermediatesCache.pin_memory = lambda *arguments: None  # for a GPU that isn't there
        model = AutoModelForCausalLM.from_pretrained(task["dense"], dtype=torch.float32)
        loader = DataLoader(rows, batch_size=1)
        oneshot(
            model=model,
            tokenizer=task["dense"],
            dataset=loader,
            recipe=json.dumps(task["recipe"]),
            output_dir=task["folder"],
        )
        return ["llmcompressor", "compressed-tensors"]
    if task["maker"] == "bitsandbytes":
        from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = AutoModelForCausalLM.from_pretrained(
            task["dense"], dtype=torch.float32, quantization_config=config, device_map="cpu"
        )
        model.save_pretrained(task["folder"])
        AutoTokenizer.from_pretrained(task["dense"]).save_pretrained(task["folder"])
        return ["bitsandbytes"]
    if task["maker"] == "autoround-awq":
        return by_autoround(task)
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=64, quant_method="gptq", format="gptq", device="cpu")
    model = GPTQModel.load(task["dense"], config, dtype=torch.float32)
    model.quantize([{key: value.tolist() for key, value in row.items()} for row in rows], batch_size=1)
    model.save(task["folder"])
    return ["gptqmodel"]


def by_autoround(task: dict) -> list[str]:
    """AutoRound without its search (round to nearest), in AWQ's layout gemm: 4 bits, groups of 64."""
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = AutoRound(
        AutoModelForCausalLM.from_pretrained(task["dense"], dtype=torch.float32),
        AutoTokenizer.from_pretrained(task["dense"]),
        scheme="W4A16",
        group_size=64,
        sym=False,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
        low_cpu_mem_usage=False,
    )
    folder = Path(task["folder"])
    made.quantize_and_save(str(folder.with_name("autoround")), format="auto_awq")
    next(folder.with_name("autoround").iterdir()).rename(folder)  # it makes a folder in the given one
    return ["auto-round"]


def in_float32(file: Path, folder: Path) -> Path:
    """The same GGUF model with every tensor in float32, by ggml's own Python library."""
    import gguf

    reader, path = gguf.GGUFReader(file), folder / "float32.gguf"
    writer = gguf.GGUFWriter(path, reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if name != gguf.Keys.General.ARCHITECTURE and not name.startswith("GGUF."):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_gptqmodel(task: dict) -> torch.nn.Module:
    """The checkpoint in float32: GPTQModel's kernels know half precision alone, so its own dequantised weights. Its
    default type, bfloat16, would round the scales; the files store float16."""
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    from transformers import AutoModelForCausalLM

    backend = BACKEND.GPTQ_TORCH if task["maker"] == "gptqmodel-gptq" else BACKEND.AWQ_TORCH
    quantised = GPTQModel.load(task["folder"], device="cpu", backend=backend, dtype=torch.float16).model
    model = AutoModelForCausalLM.from_pretrained(task["dense"], dtype=torch.float32)
    held = {
        name: t for file in Path(task["folder"]).glob("*.safetensors") for name, t in load_file(file).items()
    }
    model.load_state_dict({name: held[name] for name in model.state_dict() if name in held}, strict=False)
    for name, module in quantised.named_modules():
        if isinstance(module, BaseQuantLinear):
            module.scales = module.scales.float()
            if task["maker"] == "gptqmodel-gptq":
                weight = module.dequantize_weight()
            else:  # as its forward pass does
                weight = dequantize_gemm(
                    module.qweight, module.qzeros, module.scales, module.bits, module.group_size
                )
            model.get_submodule(name).weight.data.copy_(weight.T)
    return model


# Logits (length, vocabulary) of a text's tokens, and of each choice of each item: those that predict its tokens.
OfText = Callable[[torch.Tensor], torch.Tensor]
OfItems = Callable[[list], Iterator[list[torch.Tensor]]]


def by_llama(task: dict) -> tuple[OfText, OfItems]:
    from llama_cpp import Llama

    file = next(Path(task["folder"]).glob("*.gguf"))
    options: dict = {"n_ctx": 4096, "logits_all": True, "verbose": False, "n_threads": task["threads"]}
    if not task["runtime"]:  # it quantises activations if weights are quantised; its cache is float16
        file, options = in_float32(file, Path(task["output"]).parent), options | {"type_k": 0, "type_v": 0}
    model = Llama(str(file), **options)

    def text(ids: torch.Tensor) -> torch.Tensor:
        model.reset()
        model.eval(ids.tolist())
        return torch.from_numpy(model.scores[: len(ids)].copy())

    def choices(item: list) -> list[torch.Tensor]:
        text(torch.tensor(item[0][0]))
        start, found = len(item[0][0]), []
        for _, rest in item:
            model.n_tokens = start  # it forgets the choice before
            model.eval(rest)
            found.append(torch.from_numpy(model.scores[start - 1 : start + len(rest) - 1].copy()))
        return found

    return text, lambda items: map(choices, items)


def by_transformers(model: torch.nn.Module) -> tuple[OfText, OfItems]:
    from transformers import DynamicCache

    def choices(items: list) -> list[list[torch.Tensor]]:
        """The items' contexts in one batch, then all their choices: compressed-tensors rounds weights in each pass."""
        rows = torch.tensor([row for row, item in enumerate(items) for _ in item])
        contexts, known = padded([item[0][0] for item in items])
        rests, given = padded([rest for item in items for _, rest in item])
        lengths, cache = known.sum(1), DynamicCache(config=model.config)
        first = model(input_ids=contexts, attention_mask=known, past_key_values=cache).logits
        first = first[torch.arange(len(items)), lengths - 1][rows][:, None]
        cache.reorder_cache(rows)
        then = model(
            input_ids=rests,
            attention_mask=torch.cat((known[rows], given), 1),
            position_ids=lengths[rows][:, None] + torch.arange(rests.shape[1]),
            past_key_values=cache,
        ).logits
        found = iter(torch.cat((first, then), 1).float())
        return [[next(found)[: len(rest)] for _, rest in item] for item in items]

    def batches(items: list) -> Iterator[list[torch.Tensor]]:
        for begin in range(0, len(items), BATCH):
            yield from choices(items[begin : begin + BATCH])

    return lambda ids: model(input_ids=ids[None]).logits[0].float(), batches


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids filled up on the right, and where they are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def load(task: dict) -> tuple[OfText, OfItems, list[str]]:
    """The checkpoint as functions of token ids, and its libraries."""
    if task["maker"] == "gguf":
        return *by_llama(task), ["llama-cpp-python"]
    if task["maker"] in ("gptqmodel-gptq", "autoround-awq"):
        model = by_gptqmodel(task)
        libraries = ["gptqmodel"]
    else:
        from transformers import AutoModelForCausalLM

        if task["maker"] == "llmcompressor":  # version 0.19 unpacks NVFP4 to bfloat16, which rounds
            from compressed_tensors.compressors.nvfp4 import base

            base.unpack_fp4_from_uint8 = partial(base.unpack_fp4_from_uint8, dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(task["folder"], dtype=torch.float32, device_map="cpu")
        libraries = {"llmcompressor": ["compressed-tensors"], "bitsandbytes": ["bitsandbytes"]}.get(
            task["maker"], []
        )
    if hasattr(model, "ct_decompress_hook"):  # as its first forward pass would do
        model.hf_quantizer.compressor.decompress_model(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
    if not task["runtime"]:
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                module.quantization_enabled = False
            if hasattr(
                module, "support_avx512bf16_for_cpu"
            ):  # bitsandbytes multiplies in bfloat16 if a CPU can
                module.support_avx512bf16_for_cpu = False
    if task["maker"] == "plain" and task["runtime"]:
        sys.path.insert(0, task["package"])
        from workflow_scripts.kernels.activations import attach

        attach(model)
    model.eval()
    return *by_transformers(model), [*libraries, "transformers"]


@torch.inference_mode()
def score(task: dict) -> dict:
    """The checkpoint's nll and answers; the first token of a window is not scored."""
    text, choices, libraries = load(task)
    windows, losses = load_file(task["tokens"])["windows"], []
    for window in windows:
        losses.append(torch.nn.functional.cross_entropy(text(window)[:-1], window[1:]).item())
    answers = []
    for item, found in zip(task["items"], choices(task["items"]), strict=True):
        scores = [
            logits.log_softmax(-1).gather(1, torch.tensor(rest)[:, None]).sum().item()
            for (_, rest), logits in zip(item, found, strict=True)
        ]
        answers.append(max(range(len(scores)), key=scores.__getitem__))
    return {"nll": sum(losses) / len(losses), "answers": answers, "libraries": libraries}


def main(path: str) -> None:
    task = json.loads(Path(path).read_text())
    torch.set_num_threads(task["threads"])
    found = score(task) if task["action"] == "score" else {"libraries": make(task)}
    found["versions"] = {name: version(name) for name in found.pop("libraries")}
    Path(task["output"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
