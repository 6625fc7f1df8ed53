"""A tiny GGUF file."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np


def write(
    file: Path,
    left_out: Sequence[str] = (),
    positions: int = 64,
    added: Sequence[str] = (),
    reverse: bool = False,
    blocks: int = 1,
    seed: int = 0,
    **options: int,
) -> dict[str, np.ndarray]:
    """A random Llama of `blocks` layers in Q4_1, where 32 weights share a float16 scale d and minimum m; w = d * q + m,
    q = 0..15. added: names of vectors of ones beside its tensors. reverse: its matrices in another order. options: of
    gguf's writer. Returns the exact values of its tensors but those in `left_out`."""
    generator = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(file, "llama", **options)
    for key, value in {
        "block_count": blocks,
        "context_length": positions,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "head_count": 1,
        "head_count_kv": 1,
        "vocab_size": 5,
    }.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "<s>", "</s>", "ab"])
    writer.add_token_types([1, 1, 3, 3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    exact = {}
    shapes = {"token_embd": (5, 32)}
    for block in range(blocks):
        shapes |= {f"blk.{block}.ffn_gate": (64, 32), f"blk.{block}.ffn_up": (64, 32)}
        shapes |= {f"blk.{block}.ffn_down": (32, 64)}
        shapes |= {f"blk.{block}.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    for name in left_out:
        del shapes[name]
    for name, shape in sorted(shapes.items(), reverse=True) if reverse else shapes.items():
        weights = generator.standard_normal(shape).astype(np.float32)
        packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
        exact[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    norms = [f"blk.{block}.{part}_norm" for block in range(blocks) for part in ("attn", "ffn")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    for name in added:
        writer.add_tensor(name, np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact
