"""Writes awq/: a tiny Llama in AWQ's layout gemm by AutoRound, in the environment of `make llmcompressor`.

python make_awq.py FOLDER
"""

import sys

import torch
from auto_round import AutoRound
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    bits=4,
    group_size=32,
    sym=False,
    iters=0,
    disable_opt_rtn=True,
    device_map="cpu",
    low_cpu_mem_usage=False,
)
rounded.quantize_and_save(sys.argv[1], format="auto_awq")
