"""Random models of two layers in which prompts matter: large initial weights, so that attention is far from uniform."""

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

VOCABULARY = 97


def tiny_llama(
    kv_heads: int = 4, attention: str = "sdpa", seed: int = 0, positions: int = 256, dtype=torch.float32
) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=positions,
        initializer_range=0.2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def tiny_opt(
    attention: str = "sdpa", seed: int = 0, positions: int = 64, dtype=torch.float32
) -> PreTrainedModel:
    """With OPT's own dropout (0.1): evaluation mode must switch it off."""
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=positions,
        init_std=0.2,
        dropout=0.1,
        attn_implementation=attention,
    )
    return OPTForCausalLM(config).to(dtype).eval()


def tiny_of(name: str, kind: str = "", **settings) -> PreTrainedModel:
    """A tiny model of any rotary family of transformers, by the prefix of its classes."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, f"{name}{kind}Config")(**shape | settings)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


FAMILIES = {
    "llama": tiny_llama,
    "llama-gqa": lambda **options: tiny_llama(kv_heads=2, **options),
    "opt": tiny_opt,
}
