"""A Llama of any width and depth with random weights, as a fetched model's folder, for measurements of speed.

    python -m benchmarks.random_llama FOLDER --tokenizer MODEL [--layers 8] [--width 4096 --intermediate 11008]

The default is LLaMA-7B's width. The tokenizer, and with it the vocabulary, is that of another fetched model. Weights
are float16 with standard deviation columns^-1/2, a file per layer, never whole in memory.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    args = parser.parse_args()
    if not (args.tokenizer / "tokenizer.json").is_file():
        parser.error(f"{args.tokenizer} has no tokenizer.json; --tokenizer names a fetched model's folder")
    if args.folder.exists():
        parser.error(f"{args.folder} is there already")
    make(args.folder, args.tokenizer, args.layers, args.width, args.intermediate, args.heads)


def make(folder: Path, tokenizer: Path, layers: int, width: int, intermediate: int, heads: int) -> None:
    """The model as a fetched one in `folder`, with the tokenizer of another."""
    from transformers import AutoConfig

    from workflow_scripts.sources.models import fetch

    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    vocabulary = AutoConfig.from_pretrained(tokenizer).vocab_size
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as scratch:
        weights = Path(scratch)
        write(weights, layers, width, intermediate, heads, vocabulary)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, weights / name)
        source = {"source": "local", "path": str(weights)}
        fetch(folder.name, source, folder, weights, recipe="random", code="random")
        for link in folder.glob("*.safetensors"):  # the fetch links to the weights, which would go
            weights_file = link.resolve()
            link.unlink()
            weights_file.rename(link)


def write(folder: Path, layers: int, width: int, intermediate: int, heads: int, vocabulary: int) -> None:
    """The model's config and weights; on a GPU, if there is one, the random numbers are drawn there."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    draw = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=draw, device=draw.device).mul_(shape[-1] ** -0.5).half().cpu()

    parts = {"model.embed_tokens.weight": (vocabulary, width), "lm_head.weight": (vocabulary, width)}
    linears = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    linears |= {f"mlp.{name}_proj": (intermediate, width) for name in ("gate", "up")}
    linears["mlp.down_proj"] = (width, intermediate)
    files: list[dict] = [{name: shape} for name, shape in parts.items()]
    for index in range(layers):
        files.append({f"model.layers.{index}.{name}.weight": shape for name, shape in linears.items()})
        norms = ("input_layernorm", "post_attention_layernorm")
        files[-1] |= {f"model.layers.{index}.{name}.weight": (width,) for name in norms}
    files[0]["model.norm.weight"] = (width,)
    weight_map = {}
    for number, shapes in enumerate(files):
        name = f"model-{number:05d}.safetensors"
        tensors = {
            key: random(*shape) if len(shape) > 1 else torch.ones(shape).half()
            for key, shape in shapes.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shapes, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
