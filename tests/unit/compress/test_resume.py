"""A compression that was killed: what the next run takes over, and what it never does."""

import pytest

from tests import tiny
from tests.tiny_copies import CALIBRATION, fetch_corpus, fetch_model
from tests.unit.compress.stored import SETTINGS
from workflow_scripts.compress.task import Sources
from workflow_scripts.compress.walk import FinishedLayers
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model

GPTQ = SETTINGS["gptq"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two tiny models and two corpora, fetched as local sources."""
    root = tmp_path_factory.mktemp("sources")
    for name, family in (("model", "llama"), ("other-model", "opt")):
        fetch_model(tiny.write_model(root / f"local-{name}", family), root / name)
    for name, seed in (("corpus", 1), ("other-corpus", 2)):
        fetch_corpus(root / name, seed)
    return root


def compressed(sources, folder, model="model", corpus="corpus", seed=0, **changes):
    """Run as `compress_model.main` is run, but for the changes: `settings`, or of its provenance."""
    arguments = {"compressor": GPTQ, "calibration": CALIBRATION} | changes.pop("settings", {})
    made = Provenance("r", **{"code": "c", "seed": seed} | changes)
    compress_model.main(
        Sources(sources / model, sources / corpus), folder / "compression.json", made=made, **arguments
    )
    return (folder / "weights.safetensors").read_bytes()


def killed(sources, folder):
    """A run that dies after its first layer."""

    def save(self, index, *stored):
        real(self, index, *stored)
        raise KeyboardInterrupt

    real = FinishedLayers.save
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FinishedLayers, "save", save)
        compressed(sources, folder)
    assert not folder.exists()
    assert len(list((folder.parent / "work").rglob("layer-*.safetensors"))) == 1


@pytest.fixture
def saved(monkeypatch):
    """Indices of the layers that are computed."""
    found, real = [], FinishedLayers.save

    def save(self, index, *stored):
        found.append(index)
        real(self, index, *stored)

    monkeypatch.setattr(FinishedLayers, "save", save)
    return found


def test_a_killed_job_leaves_checkpoints_and_the_next_one_equal_weights(sources, here, saved):
    whole = compressed(sources, here / "whole")
    killed(sources, here / "killed")
    saved.clear()
    assert compressed(sources, here / "killed") == whole
    assert saved == [1]  # the first layer came from its checkpoint
    assert not list((here / "work").rglob("layer-*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"compressor": GPTQ | {"damping": 0.05}}},
        {"settings": {"calibration": {"windows": 7, "length": 32}}},
        {"code": "d"},
        {"threads": 2},
        {"device": "cpu:0"},
        {"seed": 1},
        {"corpus": "other-corpus"},
        {"model": "other-model"},
    ],
    ids=["compressor", "calibration", "code", "threads", "device", "seed", "corpus", "model"],
)
def test_a_layer_of_another_run_is_not_taken_over(changes, sources, here, saved):
    whole = compressed(sources, here / "whole", **changes)
    killed(sources, here / "killed")
    saved.clear()
    assert compressed(sources, here / "killed", **changes) == whole
    assert saved == [0, 1]
