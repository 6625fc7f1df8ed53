"""optimum's GPTQQuantizer on given token windows: a program that runs in optimum's environment (envs/optimum.lock).

    python -P optimum_worker.py TASK.json

TASK: model (folder), remote_code, windows (safetensors, `windows` (count, length)), block (name of the list of decoder
layers), bits, group_size, damping, act_order, symmetric, true_sequential, threads, output. Writes `output`, safetensors
with the tensors that optimum packed for each linear (GPTQ version 2), and in its metadata {linear: [seconds, damping]}
and the versions. It imports nothing of this package, whose libraries the other environment lacks.
"""

import ctypes
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def main(path: str) -> None:
    with open(path, encoding="utf-8") as handle:
        task = json.load(handle)
    from importlib.metadata import version

    import torch
    from optimum.gptq import quantizer
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(task["threads"])
    solved: list[tuple[float, float]] = []
    packed: dict[str, torch.Tensor] = {}

    class Watched(quantizer.GPTQ):
        """GPTQModel's solver, with the time and damping that optimum drops."""

        def fasterquant(self, **options: Any) -> tuple:
            outcome = super().fasterquant(**options)
            _, _, _, seconds, loss, damping = outcome
            if isinstance(loss, str):  # "... fallback"
                raise SystemExit(f"GPTQModel did not solve linear {len(solved)} but fell back: {loss}")
            solved.append((round(float(seconds), 3), float(damping)))
            return outcome

    class Quantizer(quantizer.GPTQQuantizer):
        """Stops before kernels rearrange the packed tensors."""

        def pack_model(self, model: "PreTrainedModel", quantizers: dict) -> None:
            names = list(quantizers)
            super().pack_model(model, quantizers)
            for name in names:
                layer = model.get_submodule(name)
                packed.update({f"{name}.{part}": getattr(layer, part).contiguous() for part in PARTS})
            self.names = names

        def post_init_model(self, model: "PreTrainedModel") -> "PreTrainedModel":
            return model

    quantizer.GPTQ = Watched
    model = _dense(task)
    windows = load_file(task["windows"])["windows"]
    engine = Quantizer(
        bits=task["bits"],
        group_size=task["group_size"] or -1,
        damp_percent=task["damping"],
        desc_act=task["act_order"],
        act_group_aware=False,
        sym=task["symmetric"],
        true_sequential=task["true_sequential"],
        block_name_to_quantize=task["block"],
        backend="gptq_torch",
        dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in windows],
    )
    engine.quantize_model(model)
    about = {
        "solved": dict(zip(engine.names, solved, strict=True)),
        "versions": {name: version(name) for name in ("optimum", "gptqmodel", "torch", "transformers")},
    }
    save_file(packed, task["output"], metadata={key: json.dumps(value) for key, value in about.items()})


def _dense(task: dict) -> "PreTrainedModel":
    """The dense model of the task, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        task["model"],
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=task["remote_code"],
    )


if __name__ == "__main__":
    if sys.platform == "linux":  # a killed job leaves no process behind that computes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    main(sys.argv[1])
