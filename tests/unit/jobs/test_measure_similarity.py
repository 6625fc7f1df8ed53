"""Similarity of a cell's attention and activations to the dense model's."""

import pytest

from tests.unit.jobs.tiny_cell import MADE, METHODS, files_of, place
from workflow_scripts.evaluate.settings import HeldoutText
from workflow_scripts.files import artifacts
from workflow_scripts.jobs import measure_similarity


def test_similarity_is_one_for_equal_models_and_less_behind_a_prompt(project, tmp_path):
    for method, (settings, members) in list(METHODS.items())[:3]:
        text, output = HeldoutText(project["corpus"], windows=2, length=24), tmp_path / f"{method}.json"
        measure_similarity.main(files_of(project, members), text, output, place(method), settings, MADE)
        record = artifacts.read_json(output, "similarity")
        assert len(record["attention"]) == len(record["activations"]) == 2
        for value in record["attention"] + record["activations"]:
            assert value == pytest.approx(1, abs=1e-6) if method == "none" else value < 1
        if method != "none":
            assert record["activations"][-1] < 0.999
