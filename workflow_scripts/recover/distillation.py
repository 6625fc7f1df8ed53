"""Training towards the dense model's next-token distribution on the same text, so that it adds no knowledge."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.kernels.causal_attention import causal_attention
from workflow_scripts.kernels.losses import Distillation, Head, linear_distillation, output_head
from workflow_scripts.kernels.packed_linears import PackedLinears


class Teacher:
    """The dense model beside the trained one. It reads the text without any prompt; its logits are never kept."""

    def __init__(self, model: PreTrainedModel, training: dict):
        self.decoder = model.eval().requires_grad_(False).get_decoder()
        self.wanted = Distillation(
            output_head(model), training.get("temperature", 1.0), training.get("mixture", 1.0)
        )
        self.linears = PackedLinears(model)

    def loss(self, hidden: Tensor, head: Head, rows: Tensor) -> Tensor:
        """`linear_distillation` of the learner's hidden states (B, T - 1, d) on rows (B, T), first tokens left out."""
        with self.linears.in_use():
            with torch.no_grad(), causal_attention(self.decoder):
                taught = self.decoder(input_ids=rows, use_cache=False).last_hidden_state
            return linear_distillation(hidden, head, rows[:, 1:], taught[:, :-1], self.wanted)
