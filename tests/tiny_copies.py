"""Tiny models and text, fetched as local sources, and compressed copies of them."""

from tests import tiny
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.task import Sources
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model
from workflow_scripts.sources import corpora, models

CALIBRATION = {"windows": 8, "length": 32}


def fetch_model(local, folder):
    """The manifest of the model in the folder `local`, fetched to `folder`."""
    spec = {"source": "local", "path": str(local)}
    return models.fetch("tiny", spec, folder, folder.parent, recipe="r", code="c")


def fetch_corpus(folder, seed=1):
    """Sentences, fetched to `folder`."""
    spec = {"source": "local", "path": str(tiny.write_corpus(folder.with_suffix(".jsonl"), seed=seed))}
    corpora.fetch("words", spec, folder, folder.parent, recipe="r", code="c")


def compressed(model, folder, settings, calibration=CALIBRATION, **options):
    """Compress the fetched `model` to `folder`; one that is calibrated by the text in `corpus` beside it."""
    named = {key: value for key, value in settings.items() if key != "engine"}
    calibrated = CompressorSettings(**named).calibrated
    compress_model.main(
        Sources(model, model.parent / "corpus" if calibrated else None),
        folder / "compression.json",
        compressor=settings,
        calibration=calibration if calibrated else None,
        **{"made": Provenance("r", "c")} | options,
    )
    return folder
