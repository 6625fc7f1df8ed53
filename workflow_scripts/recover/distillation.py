"""Training towards the dense model's next-token distribution on the same text, so that it adds no knowledge."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.kernels.causal_attention import causal_attention
from workflow_scripts.kernels.losses import Distillation, Head, linear_distillation, output_head
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.recover.prompt_bank import behind_opening, expanded_cache


class Teacher:
    """The dense model beside the trained one. It reads the text without any prompt; its logits are never kept."""

    def __init__(self, model: PreTrainedModel, training: dict):
        self.model = model.eval().requires_grad_(False)
        self.wanted = Distillation(
            output_head(model), training.get("temperature", 1.0), training.get("mixture", 1.0)
        )
        self.linears = PackedLinears(model)

    def loss(self, hidden: Tensor, head: Head, rows: Tensor, opens: bool = False) -> Tensor:
        """`linear_distillation` of the learner's hidden states (B, T - 1, d) on rows (B, T), first tokens left out.

        opens: the learner reads the first tokens in float32 (`behind_opening`), and so does the teacher. Otherwise
        rounding errors would part equal models, and a LoRA on the dense one would be trained on them.
        """
        with torch.no_grad():
            taught = behind_opening(self.model, rows, self._read) if opens else self._read(rows)
        with self.linears.in_use():
            return linear_distillation(hidden, head, rows[:, 1:], taught[:, :-1], self.wanted)

    def _read(self, rows: Tensor, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = ()) -> Tensor:
        """Last hidden states (B, T, d) of rows (B, T) behind keys and values."""
        cache = expanded_cache(keys, values, len(rows)) if keys else None
        decoder = self.model.get_decoder()
        with self.linears.in_use(), causal_attention(decoder):
            return decoder(
                input_ids=rows, past_key_values=cache, use_cache=cache is not None
            ).last_hidden_state
