"""Models whose layers lie on several GPUs: when that is done, and that accelerate's hooks change no number.

The hooks run on the CPU here; that no operation mixes two devices is test_gpu_path's.
"""

import functools

import pytest
import torch
from accelerate import dispatch_model

from tests.tiny_models import FAMILIES, tiny_llama
from tests.tiny_settings import LORA
from workflow_scripts.evaluate import forward, generation
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.recover import adapters
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode
from workflow_scripts.sources import models

PROMPT = {"kind": "prompt", "tokens": 4, "init": "random"}
PREFIX = {"kind": "prefix", "tokens": 4, "init": "random"}


@pytest.mark.parametrize(
    ("device", "free", "size", "spread"),
    [
        ("cuda", [80, 80], 13, False),  # 7B in bf16
        ("cuda", [80, 80, 80, 80], 138, True),  # 70B
        ("cuda", [80], 60, False),  # no other GPU to go to
        ("cpu", [80, 80], 138, False),
    ],
)
def test_weights_that_fill_more_than_half_a_gpu_are_spread(monkeypatch, device, free, size, spread):
    with_gpus(monkeypatch, free)
    found = models.spread_over(int(size * 1e9), torch.device(device), "m")
    assert bool(found) == spread
    if spread:
        assert found == {"device_map": "balanced", "max_memory": dict.fromkeys(range(4), int(72e9))}


def test_weights_that_no_number_of_these_gpus_holds_are_refused(monkeypatch):
    with_gpus(monkeypatch, [80, 70])
    with pytest.raises(ArtifactError, match=r"m: 138 GB of weights don't fit the 2 GPUs .*\(150 GB free\)"):
        models.spread_over(int(138e9), torch.device("cuda"), "m")


def with_gpus(monkeypatch, free: list[float]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (int(free[i] * 1e9), int(80e9)))


def test_parameters_are_counted_from_the_files_headers(tmp_path):
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    assert models.parameters_of(tmp_path) == sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------- accelerate's hooks, all on the CPU: the same numbers


@functools.cache
def row_of(sequences: tuple):
    return pack_rows([[(k, sequence) for k, sequence in enumerate(sequences)]], 1000)[0]


SEQUENCES = tuple(Sequence((*range(5, 40), *range(k, k + 9)), (k, k + 1)) for k in (50, 60, 70))


def results(model) -> list:
    """Scores behind a prompt, generated tokens, a choice among prompts, and gradients of every kind of adapter."""
    torch.manual_seed(5)
    width = model.get_input_embeddings().embedding_dim
    prefixes = [Prefix(str(n), *encode(model, torch.randn(n, width).to(model.device))) for n in (4, 6)]
    bank = PromptBank(prefixes)
    found = [forward.score_row(model, row_of(SEQUENCES), [s.targets for s in SEQUENCES], bank, 1)]
    found.append(
        [
            *generation.generate_greedy(
                model,
                [[5, 6, 7], [8, 9]],
                generation.Decoding(4, {3}, lambda tokens: tokens[-1] == 60),
                1000,
                bank,
            )
        ]
    )
    found.append(Selector(model, bank, "indep_mean").scores([[5, 6, 7, 8], [9, 10]]))
    rows = torch.randint(5, 90, (4, 12))
    for method in (PROMPT, PREFIX, LORA):
        learner = Learner(adapters.create(model, method, 0))
        found += [learner.accumulate(rows, 2), learner.heldout_loss(rows, 2)]
        found += [parameter.grad.clone() for parameter in learner.parameters]
        if method is LORA:
            learner.adapted.unload()
    return found


@pytest.mark.parametrize("family", ["llama-gqa", "opt"])
def test_a_model_with_accelerates_hooks_gives_the_same_bits(family):
    plain, hooked = FAMILIES[family](), FAMILIES[family]()
    dispatch_model(hooked, {"": "cpu"}, force_hooks=True, skip_keys=hooked._skip_keys_device_placement)
    for one, other in zip(results(plain), results(hooked), strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
        else:
            assert one == other
