"""Writes a folder of autoround/, a tiny Llama in AutoRound's own format with expected.json, or awq/ (README.md there).

python make.py FOLDER PACKING BITS SYMMETRIC
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZE = 32


def main(folder, packing, bits, symmetric):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(32)}, unk_token="w0"))
    rounded = AutoRound(
        LlamaForCausalLM(config),
        PreTrainedTokenizerFast(tokenizer_object=words),
        scheme="W4A16",
        bits=bits,
        group_size=SIZE,
        sym=symmetric,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
        low_cpu_mem_usage=False,
    )
    rounded.quantize_and_save(folder, format=packing)
    if packing == "auto_awq":  # GPTQModel says what to expect of it
        return
    (made,) = Path(folder).iterdir()
    tensors, digests = load_file(made / "model.safetensors"), {}
    for name in sorted(key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")):
        parts = {part: tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")}
        columns, rows = len(parts["qweight"]) * 32 // bits, parts["scales"].shape[1]
        linear = QuantLinear(bits, SIZE, columns, rows, bias=False)
        linear.load_state_dict(parts, strict=False)
        linear.scales = linear.scales.float()
        weight = linear(torch.eye(columns)).T.contiguous() + 0.0
        digests[name] = hashlib.sha256(weight.numpy().tobytes()).hexdigest()
    (made / "expected.json").write_text(json.dumps(digests, indent=1) + "\n")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "symmetric")
