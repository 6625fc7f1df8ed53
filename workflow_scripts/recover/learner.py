"""An adapted model as the training loop sees it: LoRA, a prompt, a prefix or another adapter on a frozen base model.

The base model stays in evaluation mode, and nothing but the adapter gets a gradient. A soft prompt is the same for all
rows, so its keys and values are computed once a step at batch 1 and expanded (exact); the text's gradient gathers on
them and goes back through the prompt once. The loss never keeps logits (`losses`).
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.kernels.causal_attention import causal_attention
from workflow_scripts.kernels.losses import linear_cross_entropy, output_head, token_losses
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.recover.adapters import prefix_keys_values, trained_parameters
from workflow_scripts.recover.distillation import Teacher
from workflow_scripts.recover.prompt_bank import (
    behind_opening,
    encode,
    expanded_cache,
    learned_positions,
    positions_behind_prompts,
)
from workflow_scripts.recover.training import fitting
from workflow_scripts.sources.models import most_positions


class Learner:
    """An adapted model as the loop sees it: trained tensors, and the loss of text rows."""

    def __init__(self, adapted: PeftModel, teacher: Teacher | None = None):
        """teacher: whose next-token distribution is the aim; None: the text itself is."""
        self.teacher = teacher
        self.adapted = adapted.eval()
        self.model = cast(PreTrainedModel, adapted.get_base_model())  # PEFT calls any base a Module
        self.head = output_head(self.model)
        self.parameters = trained_parameters(adapted)
        self.linears = PackedLinears(self.model, differentiable=True)
        self.kind = adapted.active_peft_config.peft_type.value
        self.opens = (
            self.kind == "LORA"
            and not adapted.active_peft_config.use_dora
            and self.model.dtype == torch.bfloat16
        )
        self.added: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        if self.kind == "LORA":
            from workflow_scripts.recover.lora import added_in_place

            self.added = partial(added_in_place, adapted)
            for name, module in adapted.named_modules():
                if "lora_dropout" in name:  # of the frozen model's own dropout (OPT has one) there is none
                    module.train()

    def require_room(self, length: int) -> None:
        """ValueError if windows of `length` tokens and the soft prompt exceed the model's positions."""
        virtual = getattr(self.adapted.active_peft_config, "num_virtual_tokens", 0)
        behind = positions_behind_prompts(self.model) if virtual else None
        positions = min(filter(None, (most_positions(self.model), behind)), default=None)
        if positions is not None and virtual + length > positions:
            room = positions - virtual
            most = f"at most {room} are possible" if room > 0 else "it leaves no room for text"
            of_table = behind is not None and learned_positions(self.model) is None
            table = " that keep one rotary table" if of_table else ""
            raise ValueError(
                f"sequence_length: {length} tokens after a prompt of {virtual} exceed the model's {positions} "
                f"positions{table}; {most}"
            )

    def prefix(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values over layers that stand before the text, differentiable; none for LoRA."""
        if self.kind == "PROMPT_TUNING":
            return encode(self.model, self.parameters[0])
        if self.kind == "PREFIX_TUNING":
            return prefix_keys_values(self.parameters[0].to(self.model.dtype), self.model)
        return [], []

    def hidden(self, rows: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Last hidden states (B, T, d) of rows (B, T), the prefix before them."""
        cache = expanded_cache(keys, values, len(rows)) if keys else None
        decoder = self.model.get_decoder()
        with causal_attention(decoder):
            return decoder(
                input_ids=rows, past_key_values=cache, use_cache=cache is not None
            ).last_hidden_state

    def read(self, rows: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """`hidden` with packed weights; LoRA in bfloat16 reads the first OPENING tokens in float32."""

        def packed(rows: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
            with self.linears.in_use(), self.added():
                return self.hidden(rows, keys, values)

        return behind_opening(self.model, rows, packed) if self.opens else packed(rows, keys, values)

    def accumulate(self, rows: Tensor, micro_batch: int) -> float:
        """Add the gradient of the mean loss over rows (B, T) to the parameters; returns that loss.

        A window's first token is not scored: the prompt's last position could predict it, a model without prompt can't.
        """
        keys, values = self.prefix()
        leaves = [tensor.detach().requires_grad_() for tensor in (*keys, *values)]
        scored = rows[:, 1:].numel()
        losses = []
        for part in rows.split(micro_batch):
            hidden = self.read(part, leaves[: len(keys)], leaves[len(keys) :])
            with self.linears.in_use():
                loss = self.loss(hidden[:, :-1], part) / scored
            loss.backward()
            losses.append(loss.detach())
        if leaves:
            torch.autograd.backward([*keys, *values], [leaf.grad for leaf in leaves])
        return sum(torch.stack(losses).tolist())  # the host waits for a GPU once a step

    def loss(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Summed over rows (B, T) but for their first tokens: of the text, or against the teacher."""
        if self.teacher is None:
            return linear_cross_entropy(hidden, self.head, rows[:, 1:])
        return self.teacher.loss(hidden, self.head, rows, self.opens)

    @torch.no_grad()
    def heldout_loss(self, windows: Tensor, micro_batch: int, with_adapter: bool = True) -> float:
        """Mean loss (nats per token) of windows (N, T), first tokens not scored."""
        windows = windows.to(self.model.device)
        keys, values = self.prefix() if with_adapter else ([], [])
        context = contextlib.nullcontext() if with_adapter else self.adapted.disable_adapter()

        def summed(at_a_time: int) -> float:
            total = 0.0
            for part in windows.split(at_a_time):
                hidden = self.hidden(part, keys, values)
                total += token_losses(hidden[:, :-1], self.head, part[:, 1:]).double().sum().item()
            return total

        with context, _dropout_off(self.adapted):
            total, _ = fitting(summed, micro_batch, "on held-out text", windows.shape[1])
        return total / windows[:, 1:].numel()


@contextlib.contextmanager
def _dropout_off(module: torch.nn.Module) -> Iterator[None]:
    active = [child for child in module.modules() if child.training]
    for child in active:
        child.training = False
    yield
    for child in active:
        child.training = True
