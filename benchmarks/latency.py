"""What every recovery method costs at inference on a model of full size with random weights: the paper's section 3.3.

    python -m benchmarks.latency [--model llama-7b] [--grid paper] [--device cuda] [--layers 32] [--repeats 20]

Shapes decide latency, not values: the model is drawn at random on the device, in the grid's precision. Methods, batch
and sequence are those of its `latency`, measured by the code of that rule: a forward pass over the text, in rounds of
random order. --batch, --sequence, --repeats change it; --generate N also times greedy steps. The paper prints at most
0.37 s with a prompt and 0.62 s with (unmerged) LoRA, and no device.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.rows import add_output, keep
from workflow_scripts.plan import config
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "llama-7b": (
        "Llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        },
    ),
    "opt-6.7b": (
        "OPT",
        {
            "hidden_size": 4096,
            "ffn_dim": 16384,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 4096,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
        },
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="llama-7b")
    parser.add_argument("--grid", default="paper")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    for name in ("batch", "sequence", "generate", "repeats"):
        parser.add_argument(f"--{name}", type=int, help="default: the grid's")
    add_output(parser)
    return parser.parse_args()


def main() -> None:
    args = arguments()

    import torch
    import transformers

    from workflow_scripts.evaluate.latency import measure, variants
    from workflow_scripts.kernels.dtypes import DTYPES

    plan = Plan(config.load(config.read(*config.files(root=ROOT))))
    asked = plan.latency(args.grid, args.model, "dense", "none", "0")
    batch, sequence, generate, repeats = (
        asked.get(name, 0) if getattr(args, name) is None else getattr(args, name)
        for name in ("batch", "sequence", "generate", "repeats")
    )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU; --device cpu computes on the processor")
    device = torch.device(args.device)
    family, shape = SIZES[args.model]
    settings = getattr(transformers, f"{family}Config")(num_hidden_layers=args.layers, **shape)
    torch.manual_seed(0)
    with device:
        model = transformers.AutoModelForCausalLM.from_config(
            settings, dtype=DTYPES[asked["precision"]]
        ).eval()
    with tempfile.TemporaryDirectory() as folder:
        made = variants(model, None, asked["methods"], Path(folder), batch, sequence)
        rows = measure(made, asked["methods"], device, generate, repeats)
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )
    print(f"{args.model}, {args.layers} layers, {asked['precision']}, {batch} x {sequence} tokens, {where}")
    print(f"{'method':14} {'variant':14} {'seconds':>8} {'interval':>18} {'of none':>8}  token")
    for row in rows:
        time = row["prefill"]
        interval = f"[{time['low']:.4f}, {time['high']:.4f}]"
        token = f"{1000 * row['token']['median']:.1f} ms" if row["token"] else "-"
        shares = "".join(f"  {name} {share:.0%}" for name, share in row.get("shares", {}).items())
        ratios = "".join(f"  {m['median']:.3f} of {name}" for name, m in row.get("cached_ratio", {}).items())
        print(
            f"{row['method']:14} {row['variant']:14} {time['median']:8.4f} {interval:>18} "
            f"{row['prefill_ratio']['median']:7.3f}x  {token}{shares}{ratios}"
        )
        keep(args.output, **figures(row))


def figures(row: dict) -> dict:
    """A row of `measure` as a row of --output."""
    time = row["prefill"]
    return {
        "method": row["method"],
        "variant": row["variant"],
        "prefill_s": time["median"],
        "interval_s": [time["low"], time["high"]],
        "of_the_plain_model": row["prefill_ratio"]["median"],
        "a_token_ms": 1000 * row["token"]["median"] if row["token"] else None,
        "rows_of_each_prompt": row.get("shares"),
        "of_each_cached_prompt": {name: m["median"] for name, m in row.get("cached_ratio", {}).items()}
        or None,
    }


if __name__ == "__main__":
    main()
