"""What a step costs a GPU before it computes anything: kernels that the host launches, and waits for the GPU's values.

Counted on a pretended GPU, as differences of two runs, so that beginnings and ends do not count.
"""

import contextlib

import pytest
import torch

from tests.equivalence.test_training_gradients import METHODS, TRAINING
from tests.pretend_gpus import REAL, Counts, pretend_gpus
from tests.tiny_models import VOCABULARY, tiny_llama
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.solver import solve
from workflow_scripts.evaluate.generation import Decoding, generate_greedy
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.recover import adapters
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.training import train

GPU = "cuda:0"

pytestmark = pytest.mark.skipif(REAL, reason="a real GPU's operations are others")


def training(method: str, steps: int, micro_batch: int, folder) -> Counts:
    rows = torch.randint(VOCABULARY, (4 * steps, 12), generator=torch.Generator().manual_seed(3))
    learner = Learner(adapters.create(tiny_llama().to(GPU), METHODS[method], 0, rows[0]))
    with Counts() as counts:
        train(
            learner,
            TRAINING | {"micro_batch": micro_batch},
            rows,
            0,
            folder / f"{method}-{steps}-{micro_batch}",
        )
    return counts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_training_step_waits_for_the_gpu_twice(method, micro_batch, tmp_path, monkeypatch):
    """For the loss, and to know that the gradient is finite: whatever the micro-batches, and the adapter's tensors.
    Without a cache, so with LoRA, transformers also asks in each pass whether a row holds several sequences."""
    with pretend_gpus(monkeypatch):
        few, more = (training(method, steps, micro_batch, tmp_path).waits for steps in (2, 5))
    passes = 4 // micro_batch if method == "lora" else 0
    assert more - few == 3 * (2 + passes)


@pytest.mark.parametrize(("method", "most"), [("prompt", 126), ("prefix", 126), ("lora", 200)])
def test_a_pass_of_training_launches_no_more_than_stated_per_layer(method, most, tmp_path, monkeypatch):
    """Forward and backward, the loss included, of one more micro-batch through two layers; packed copies of weights,
    which a GPU has not, are off."""
    monkeypatch.setattr(PackedLinears, "in_use", lambda self: contextlib.nullcontext())
    counts = {}
    with pretend_gpus(monkeypatch):
        for micro_batch in (2, 4):
            few, more = (training(method, steps, micro_batch, tmp_path).launches for steps in (2, 5))
            counts[micro_batch] = (more - few) / 3
    assert 0 < (counts[2] - counts[4]) / 2 <= most


@pytest.mark.parametrize("rows", [1, 4])
def test_a_generated_token_of_all_rows_waits_once(rows, monkeypatch):
    contexts = [[3 + row, 4, 5, 6 + row] for row in range(rows)]

    def generated(tokens: int) -> Counts:
        with Counts() as counts:
            list(
                generate_greedy(tiny_llama().to(GPU), contexts, Decoding(tokens, set(), lambda _: False), 64)
            )
        return counts

    with pretend_gpus(monkeypatch):
        few, more = generated(4), generated(8)
    assert more.waits - few.waits == 4
    assert (more.launches - few.launches) / 4 <= 2 * 49


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"algorithm": "gptq", "bits": 3}, 0.36),
        ({"algorithm": "gptq", "bits": 3, "group_size": 32}, 1.02),
        ({"algorithm": "gptq", "bits": 3, "group_size": 32, "act_order": True, "static_groups": True}, 0.96),
        ({"algorithm": "sparsegpt", "sparsity": 0.5}, 0.43),
        ({"algorithm": "sparsegpt", "pattern": "2:4"}, 0.31),
    ],
    ids=["gptq", "groups", "static", "sparsegpt", "2:4"],
)
def test_a_column_of_the_sweep_launches_no_more_than_stated_and_waits_for_nothing(
    settings, most, monkeypatch
):
    """A tile of 32 columns is one graph, with copies to and from it; a column alone would take five to eight."""

    def solved(columns: int) -> Counts:
        draw = torch.Generator().manual_seed(0)
        X = torch.randn(3 * columns, columns, generator=draw, dtype=torch.float64)
        H, W = X.T @ X / len(X), torch.randn(16, columns, generator=draw, dtype=torch.float64)
        with Counts() as counts:
            solve([W.to(GPU)], H.to(GPU), CompressorSettings(**settings))
        return counts

    with pretend_gpus(monkeypatch):
        few, more = solved(256), solved(512)
    assert more.waits == few.waits
    assert (more.launches - few.launches) / 256 <= most


def test_what_makes_the_host_wait_is_counted(monkeypatch):
    with pretend_gpus(monkeypatch), Counts() as counts:
        there = torch.arange(6.0).to(GPU)
        for reading in (
            float,
            lambda t: t.cpu(),
            lambda t: t.tolist(),
            lambda t: t[t > 1],
            lambda t: t.to("cpu"),
        ):
            before = counts.waits
            reading(there if reading is not float else there[0])
            assert counts.waits == before + 1
        before = counts.waits
        (there + 1).sum()
        assert counts.waits == before and counts.launches > 2
