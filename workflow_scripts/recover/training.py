"""The training loop: checkpoints, signals, memory, progress. The learner (`learner`) says what a step computes.

A step depends on the checkpoint and its number alone, so a run that was killed and continued ends in the same bits.
Signals, time and the last step make checkpoints; a loss, gradient or adapter that is not finite stops the run.
"""

import contextlib
import hashlib
import io
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.files.job import log

CURVE_POINTS = 500
PROGRESS_SECONDS = 10


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


class Trainable(Protocol):
    """The learner that the loop needs."""

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
        log(f"[train] continues from step {state.step} of {steps}")
    progress = Progress(steps, batch * windows.shape[1], windows.numel(), state.step)
    windows = windows.to(learner.model.device)  # at once: a copy from the host would hold up each step
    clock = saved = time.monotonic()
    with _signals() as pending:
        while state.step < steps:
            rate = learning_rate(state.step, steps, training)
            optimizer.param_groups[0]["lr"] = rate
            rows = windows[state.step * batch : (state.step + 1) * batch]
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
    """True if all of the tensors are there and finite; the host waits for a GPU once."""
    found = list(tensors)
    present = [tensor for tensor in found if tensor is not None]
    flags = [tensor.isfinite().all().to(present[0].device) for tensor in present]
    return len(present) == len(found) and bool(torch.stack(flags).all())


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
    """attempt(micro_batch), repeated with half of it if GPU memory runs out; returns its loss and the micro-batch."""
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
        log(f"[train] out of memory {where}: {micro_batch} windows at a time from here{note}")


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
        log(f"[train] {file} is damaged (SHA-256) and is not used: training starts over")
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
        log(
            f"[train] {seen:,} of {self.tokens:,} tokens, loss {state.losses[-1]:.4f}, {speed:,.0f} tokens/s, "
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
