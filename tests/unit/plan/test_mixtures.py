"""Mixtures of experts are told before any job, with what they can't run."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from workflow_scripts.plan.config import ConfigError, load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ({"num_local_experts": 8}, 8),
        ({"n_routed_experts": 1, "num_experts": None}, None),
        ({"num_experts": 64, "is_moe": False}, None),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_mixture_of_experts_is_told_before_any_job(found, count, local, unfetched, tmp_path):
    """Of a local model before the fetch, of another as soon as it is there; its dense cells can run."""
    folder = tmp_path / "mine" if local else Path("resources/models/smollm2-135m")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "num_hidden_layers": 30} | found))
    if local:
        unfetched["models"]["smollm2-135m"] = {"source": "local", "path": str(folder), "parameters": 1e8}
    block = {"models": ["smollm2-135m"], "compressors": ["dense"], "methods": ["none", "lora-r2"]}
    unfetched["grids"]["smoke"]["blocks"] = {"one": block | {"corpora": ["wikipedia"], "seeds": [0]}}
    load(unfetched)
    block |= {"compressors": ["dense", "rtn-w3"], "methods": ["none", "eora-r4"]}
    unfetched["grids"]["smoke"]["blocks"]["one"] |= block
    with pytest.raises(ConfigError) if count else nullcontext() as refused:
        load(unfetched)
    if refused:
        mixture = f"a mixture of {count} experts, whose weights lie in no linear"
        told = str(refused.value).splitlines()
        assert (
            f"models.smollm2-135m: is {mixture}, so rtn-w3 can't be made of it; only dense can (found"
            in told[1]
        )
        adapts = f"adapts all linears of a layer, and smollm2-135m is {mixture}"
        assert told[0] == f"methods.eora-r4: {adapts}"
