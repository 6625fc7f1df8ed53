"""Tiny models of several families, walked from files and in memory."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from workflow_scripts.compress.decoder import Activations, decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.stored_model import put_compressed
from workflow_scripts.compress.walk import FinishedLayers, compress_layer, walk

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA_GROUPS = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
NEOX_GROUPS = [("query_key_value",), ("dense",), ("dense_h_to_4h",), ("dense_4h_to_h",)]
FAMILIES = {
    "llama": ({"num_key_value_heads": 2, "tie_word_embeddings": True}, LLAMA_GROUPS),
    "mistral": ({"num_key_value_heads": 2, "sliding_window": 8}, LLAMA_GROUPS),
    "qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, LLAMA_GROUPS),
    "gemma": ({"num_key_value_heads": 1, "head_dim": 8}, LLAMA_GROUPS),
    "gemma3_text": (
        {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        LLAMA_GROUPS,
    ),
    "opt": (
        {"ffn_dim": 64, "word_embed_proj_dim": 32},
        [("q_proj", "k_proj", "v_proj"), ("out_proj",), ("fc1",), ("fc2",)],
    ),
    "gpt_neox": ({}, NEOX_GROUPS),
    "phi": ({}, [("q_proj", "k_proj", "v_proj", "fc1"), ("dense",), ("fc2",)]),
    "gpt2": (GPT2, [("c_attn",), ("c_proj",), ("c_fc",), ("c_proj",)]),
    "openai-gpt": (GPT2, [("c_attn",), ("c_proj",), ("c_fc",), ("c_proj",)]),  # its layers return lists
    "falcon": (
        {"ffn_hidden_size": 64, "alibi": True},
        [("query_key_value", "dense_h_to_4h"), ("dense",), ("dense_4h_to_h",)],
    ),
    "phi3": ({"num_key_value_heads": 2}, [("qkv_proj",), ("o_proj",), ("gate_up_proj",), ("down_proj",)]),
    "gptj": (GPT2 | {"rotary_dim": 4}, [("q_proj", "k_proj", "v_proj", "fc_in"), ("out_proj",), ("fc_out",)]),
}
W3 = CompressorSettings("gptq", bits=3, group_size=24, act_order=True, static_groups=True, damping=0.01)
HALF = CompressorSettings("sparsegpt", sparsity=0.5, damping=0.01)


def tiny(family="llama", **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family][0], **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def stored(model, folder, shards=False):
    """The model as a skeleton over a folder of its own inside `folder`."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "50GB")
    return Skeleton(folder)


def walked(model, folder, settings, text=None, **options):
    """Walk a model; (packed tensors of all layers, records). Checkpoints lie in `folder`."""
    folder.mkdir(exist_ok=True)
    finished, options = FinishedLayers(folder), {"log": silent} | options
    records = walk(stored(model, folder), windows() if text is None else text, settings, finished, **options)
    return all_tensors(folder), records


def all_tensors(folder):
    """Copies: tensors of `load_file` change with their file."""
    return {
        key: value.clone()
        for file in sorted(folder.glob("layer-*"))
        for key, value in load_file(file).items()
    }


@torch.no_grad()
def rebuilt(model, tensors, records, settings):
    """The model with its compressed linears in place of its own."""
    put_compressed(model, tensors, records, settings, "here")
    return model


@torch.no_grad()
def walked_in_memory(model, text, settings):
    """What `walk` must give, on a model that lies in memory as a whole: packed tensors, records."""
    layers, tensors, records = decoder_layers(model), {}, []
    activations = Activations(model, layers, text)
    for index, layer in enumerate(layers):
        found = compress_layer(index, layer, activations, settings)
        tensors |= found[0]
        records += found[1]
        activations.advance(index, layer)
    return tensors, records


def untimed(records):
    return [record | {"seconds": 0} for record in records]


def windows(count=9, length=32):
    return torch.randint(3, 96, (count, length), generator=torch.Generator().manual_seed(1))


def silent(line):
    pass


def weights(model):
    layers = decoder_layers(model)
    return {
        (i, n): get_weight(m).clone()
        for i, layer in enumerate(layers)
        for n, m in layer_linears(layer).items()
    }
