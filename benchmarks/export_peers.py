"""An exported folder read by vLLM or transformers: exports.py starts this file in an environment that has them.

    python -P benchmarks/export_peers.py '{"program", "folder", "tokens", "device", "repeats", "output"}'

`output` gets `losses` (rows, length - 1), the log-likelihood of each token after the first; the last line printed is
{"seconds": of a prefill, the median of `repeats` after the losses}. Nothing of this package is imported.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file


def by_model(model: torch.nn.Module, tokens: torch.Tensor, repeats: int) -> dict:
    """{losses, seconds} of a model of transformers, row by row: float32 log-softmax over logits as it gives them."""
    rows, losses = tokens.to(model.device), []
    with torch.inference_mode():
        for row in rows:
            logits = model(input_ids=row[None], use_cache=False).logits[0, :-1].float()
            losses.append(logits.log_softmax(-1).gather(1, row[1:, None])[:, 0].cpu())
        seconds = timed(lambda: model(input_ids=rows, use_cache=False, logits_to_keep=1), repeats)
    return {"losses": torch.stack(losses), "seconds": seconds}


def by_vllm(folder: str, tokens: torch.Tensor, repeats: int) -> dict:
    """{losses, seconds} of vLLM, without CUDA graphs, whose capture takes longer than all that is timed here."""
    from vllm import LLM, SamplingParams

    model = LLM(
        folder,
        dtype="float16",
        max_model_len=tokens.shape[1] + 1,
        enforce_eager=True,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.5,
    )
    prompts = [{"prompt_token_ids": row} for row in tokens.tolist()]
    once = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
    scored = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, prompt_logprobs=0)
    losses = [
        [place[token].logprob for token, place in zip(row[1:], answer.prompt_logprobs[1:], strict=True)]
        for row, answer in zip(tokens.tolist(), model.generate(prompts, scored, use_tqdm=False), strict=True)
    ]
    seconds = timed(lambda: model.generate(prompts, once, use_tqdm=False), repeats)
    return {"losses": torch.tensor(losses), "seconds": seconds}


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats`, after one that is not timed."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def main(task: dict) -> None:
    tokens = load_file(task["tokens"])["tokens"]
    if task["program"] == "vllm":
        found = by_vllm(task["folder"], tokens, task["repeats"])
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            task["folder"], dtype=torch.float16, device_map=task["device"]
        )
        found = by_model(model.eval(), tokens, task["repeats"])
    save_file({"losses": found["losses"]}, task["output"])
    print(json.dumps({"seconds": found["seconds"]}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
