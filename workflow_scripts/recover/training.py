"""The training loop for LoRA, prompts and prefixes. The base model is frozen and stays in evaluation mode.

What makes it fast: a soft prompt is the same for all rows, so its keys and values are computed once a step at batch
1 and expanded (exact); the text's gradient gathers on them and goes back through the prompt once. The loss never
keeps logits (`losses`). Nothing but the adapter gets a gradient.

What makes it safe: a step depends on the checkpoint and its number alone, so a run that was killed and continued ends
in the same bits; signals, time and the last step make checkpoints; what is not finite stops the run.
"""

import contextlib
import hashlib
import io
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.files.job import log
from workflow_scripts.kernels.causal_attention import causal_attention
from workflow_scripts.kernels.losses import linear_cross_entropy, plain_head, token_losses
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.recover.adapters import prefix_keys_values, trained_parameters
from workflow_scripts.recover.distillation import Teacher
from workflow_scripts.recover.prompt_bank import (
    encode,
    exact_pass,
    expanded_cache,
    learned_positions,
    positions_behind_prompts,
)
from workflow_scripts.sources.models import most_positions

CURVE_POINTS = 500
PROGRESS_SECONDS = 10
# First tokens of a window that LoRA reads in float32 if the model is in bfloat16: on SmolLM2-135M the cosine of its
# gradient to the exact one is 0.88 without, 0.72 with one, 0.9993 to 0.9996 with two, four and eight.
OPENING = 8


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which step and from where it can be continued."""


class Stopped(SystemExit):
    """SIGTERM: the checkpoint is written and the process should end (exit code 143)."""


@dataclass
class State:
    """All that changes from step to step, beside the adapter and the optimiser."""

    step: int = 0
    micro_batch: int = 1
    losses: list[float] = field(default_factory=list)  # mean per step, nats per token
    seconds: float = 0.0


def learning_rate(step: int, steps: int, training: dict) -> float:
    """Rate of step 0..steps-1: linear warm-up over the first share of steps, then constant, linear or cosine to 0."""
    warmup = round(training["warmup"] * steps)
    if step < warmup:
        return training["learning_rate"] * (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return training["learning_rate"] * shape[training["schedule"]]


class Learner:
    """An adapted model as the loop sees it: trained tensors, and the loss of text rows."""

    def __init__(self, adapted: PeftModel, teacher: Teacher | None = None):
        """teacher: whose next-token distribution is the aim; None: the text itself is."""
        self.teacher = teacher
        self.adapted = adapted.eval()
        self.model = cast(PreTrainedModel, adapted.get_base_model())  # PEFT calls any base a Module
        self.head = plain_head(self.model)
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
        opening = []
        if self.opens:
            embedded = self.model.get_input_embeddings()(rows[:, :OPENING])
            first, keys, values = exact_pass(self.model, embedded)
            opening, rows = [first], rows[:, OPENING:]
        with self.linears.in_use(), self.added():
            return torch.cat([*opening, self.hidden(rows, keys, values)], dim=1) if rows.numel() else first

    def accumulate(self, rows: Tensor, micro_batch: int) -> float:
        """Add the gradient of the mean loss over rows (B, T) to the parameters; returns that loss.

        A window's first token is not scored: the prompt's last position could predict it, a model without prompt can't.
        """
        keys, values = self.prefix()
        leaves = [tensor.detach().requires_grad_() for tensor in (*keys, *values)]
        scored = rows[:, 1:].numel()
        total = 0.0
        for part in rows.split(micro_batch):
            hidden = self.read(part, leaves[: len(keys)], leaves[len(keys) :])
            with self.linears.in_use():
                loss = self.loss(hidden[:, :-1], part) / scored
            loss.backward()
            total += loss.item()
        if leaves:
            torch.autograd.backward([*keys, *values], [leaf.grad for leaf in leaves])
        return total

    def loss(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Summed over rows (B, T) but for their first tokens: of the text, or against the teacher."""
        if self.teacher is None:
            return linear_cross_entropy(hidden, self.head, rows[:, 1:])
        return self.teacher.loss(hidden, self.head, rows)

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


class Trainable(Protocol):
    """What the loop asks of a learner."""

    model: PreTrainedModel
    parameters: list[torch.nn.Parameter]

    def require_room(self, length: int) -> None:
        """ValueError if the model can't read windows of `length` tokens."""

    def accumulate(self, rows: Tensor, micro_batch: int) -> float:
        """Add the gradient of the mean loss over rows (B, T) to the parameters; returns that loss."""


def train(learner: Trainable, training: dict, windows: Tensor, seed: int, folder: Path) -> State:
    """Train a learner in place on windows (N, T) in their order; continue from the checkpoint in `folder`, if any.

    One step takes `batch_size` windows, `micro_batch` at a time. Raises TrainingError for a loss, a gradient or an
    adapter that is not finite and for memory that does not hold one window, Stopped after SIGTERM.
    """
    learner.require_room(windows.shape[1])
    batch, steps = training["batch_size"], math.ceil(len(windows) / training["batch_size"])
    optimizer = torch.optim.AdamW(learner.parameters, weight_decay=training["weight_decay"])
    state = State(micro_batch=min(training["micro_batch"], batch))
    checkpoint = folder / "checkpoint.pt"
    if values := _intact(checkpoint, learner.model.device):
        state = _restore(values, learner.parameters, optimizer)
        say(f"continues from step {state.step} of {steps}")
    progress = Progress(steps, batch * windows.shape[1], windows.numel(), state.step)
    clock = saved = time.monotonic()
    with _signals() as pending:
        while state.step < steps:
            rate = learning_rate(state.step, steps, training)
            optimizer.param_groups[0]["lr"] = rate
            rows = windows[state.step * batch : (state.step + 1) * batch].to(learner.model.device)
            loss = _gradient(learner, optimizer, rows, state, seed)
            # a finite loss may have a gradient that isn't, which a step would carry into the next checkpoint
            if not math.isfinite(loss) or not _finite(p.grad for p in learner.parameters):
                what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
                raise _diverged(what, state.step, steps, rate, checkpoint)
            optimizer.step()
            state.step += 1
            state.losses.append(loss)
            now = time.monotonic()
            state.seconds, clock = state.seconds + now - clock, now
            progress.show(state)
            if pending or state.step == steps or now - saved >= 60 * training["checkpoint_minutes"]:
                moments = [value for kept in optimizer.state.values() for value in kept.values()]
                if not _finite([*learner.parameters, *moments]):
                    what = "the adapter or its optimiser's state is not finite after the update"
                    raise _diverged(what, state.step - 1, steps, rate, checkpoint)
                _save(checkpoint, learner.parameters, optimizer, state)
                saved = now
                if signal.SIGTERM in pending:
                    raise Stopped(128 + signal.SIGTERM)
                pending.discard(signal.SIGUSR1)  # a SIGTERM that came just now is the next step's
    return state


def _finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all of the tensors are there and finite."""
    return all(tensor is not None and bool(tensor.isfinite().all()) for tensor in tensors)


def _diverged(what: str, step: int, steps: int, rate: float, checkpoint: Path) -> TrainingError:
    good = f"last good checkpoint {checkpoint}" if checkpoint.exists() else "no checkpoint yet"
    return TrainingError(
        f"{what} at step {step} of {steps} with learning rate {rate:.3g} ({good}); "
        "try a lower learning rate, or precision fp32"
    )


def _gradient(
    learner: Trainable, optimizer: torch.optim.Optimizer, rows: Tensor, state: State, seed: int
) -> float:
    """Loss and gradient of one step; the micro-batch that fitted is the next step's.

    Dropout draws by seed and step alone: a continued run draws the same, as does one that begins with this micro-batch.
    """

    def accumulated(micro_batch: int) -> float:
        torch.manual_seed(seed * 1_000_003 + state.step)
        optimizer.zero_grad(set_to_none=True)
        return learner.accumulate(rows, micro_batch)

    whole = f"; a step is still {len(rows)} windows"
    loss, state.micro_batch = fitting(
        accumulated, state.micro_batch, f"at step {state.step}", rows.shape[1], whole
    )
    return loss


def fitting(
    attempt: Callable[[int], float], micro_batch: int, where: str, length: int, note: str = ""
) -> tuple[float, int]:
    """attempt(micro_batch), begun again with half of it whenever GPU memory runs out; and the one that fitted."""
    while True:
        try:
            return attempt(micro_batch), micro_batch
        except torch.OutOfMemoryError as error:
            if micro_batch == 1:
                raise TrainingError(
                    f"out of memory {where} with one window of {length} tokens at a time; "
                    "lower sequence_length or use a larger GPU"
                ) from error
        micro_batch //= 2  # outside the handler: the error holds the tensors of the failed pass
        torch.cuda.empty_cache()
        say(f"out of memory {where}: {micro_batch} windows at a time from here{note}")


# -------------------------------------------------------------------------------- checkpoints and signals


def _save(file: Path, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write a checkpoint: 32 bytes of SHA-256, then what torch saves."""
    values = {
        "parameters": [p.detach() for p in parameters],
        "optimizer": optimizer.state_dict(),
        "state": asdict(state),
    }
    saved = io.BytesIO()
    torch.save(values, saved)
    with atomic_path(file) as temporary, open(temporary, "wb") as handle:
        handle.write(hashlib.sha256(saved.getbuffer()).digest())
        handle.write(saved.getbuffer())


def _intact(file: Path, device: torch.device) -> dict | None:
    """A checkpoint's values; None, and a line in the log, if it was cut short or changed: training starts over."""
    if not file.exists():
        return None
    data = file.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        say(f"{file} is damaged (SHA-256) and is not used: training starts over")
        return None
    return torch.load(io.BytesIO(data[32:]), map_location=device, weights_only=True)


def _restore(values: dict, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> State:
    with torch.no_grad():
        for parameter, value in zip(parameters, values["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(values["optimizer"])
    return State(**values["state"])


@contextlib.contextmanager
def _signals() -> Iterator[set[int]]:
    """Collect SIGTERM and SIGUSR1 instead of dying of them: the loop looks after each step."""
    pending: set[int] = set()
    before = {
        number: signal.signal(number, lambda received, frame: pending.add(received))
        for number in (signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------- reporting


def say(message: str) -> None:
    log(f"[train] {message}")


class Progress:
    """A line now and then: tokens, loss, speed, time left. The last step may have fewer than `step_tokens`."""

    def __init__(self, steps: int, step_tokens: int, tokens: int, first: int):
        self.steps, self.step_tokens, self.tokens, self.first = steps, step_tokens, tokens, first
        self.start = time.monotonic()
        self.shown = -math.inf

    def show(self, state: State) -> None:
        now = time.monotonic()
        if now - self.shown < PROGRESS_SECONDS and state.step < self.steps:
            return
        self.shown = now
        seen = min(state.step * self.step_tokens, self.tokens)
        speed = (seen - self.first * self.step_tokens) / (now - self.start)
        left = (self.tokens - seen) / speed
        say(
            f"{seen:,} of {self.tokens:,} tokens, loss {state.losses[-1]:.4f}, {speed:,.0f} tokens/s, "
            f"{left:,.0f} s left"
        )


def loss_curve(losses: list[float], step_tokens: int, tokens: int) -> list[list]:
    """At most CURVE_POINTS pairs of tokens seen and mean loss of the tokens since the pair before.

    losses: one per step of `step_tokens`, of which the last may be short: `tokens` are all that were seen.
    """
    every = max(1, math.ceil(len(losses) / CURVE_POINTS))
    curve = []
    for start in range(0, len(losses), every):
        piece, end = losses[start : start + every], min(start + every, len(losses))
        seen = min(end * step_tokens, tokens)
        weights = [1.0] * (len(piece) - 1) + [(seen - (end - 1) * step_tokens) / step_tokens]
        curve.append([seen, sum(w * loss for w, loss in zip(weights, piece, strict=True)) / sum(weights)])
    return curve
