"""Latency of every method: each variant is timed, and what is timed is what the method evaluates with."""

import pytest
import torch

from tests.equivalence import scorer_folders
from tests.tiny_settings import LORA
from tests.unit.jobs.tiny_cell import MADE, METHODS, files_of, place
from workflow_scripts.evaluate import latency
from workflow_scripts.evaluate.settings import LatencyShape
from workflow_scripts.files import artifacts
from workflow_scripts.jobs import measure_latency
from workflow_scripts.recover.adapters import attach
from workflow_scripts.sources import models


def test_latency_measures_every_variant(project, tmp_path):
    prompt, lora = scorer_folders.PROMPT, LORA
    methods = {
        "prompt-5": prompt,
        "prompt-7": prompt | {"tokens": 7},
        "ptune-5": {"kind": "prefix", "tokens": 5, "init": "text"},
        "idp-5-7": scorer_folders.IDP,
        "concat-5-7": METHODS["concat-5-7"][0],
        "lora-r2": lora,
    }
    shape = LatencyShape(batch=3, sequence=12, generate=2, repeats=3, precision="fp32")
    measure_latency.main(files_of(project, []), tmp_path / "l.json", place("none"), methods, shape, MADE)
    rows = artifacts.read_json(tmp_path / "l.json", "latency")["latencies"]
    assert [(row["method"], row["variant"]) for row in rows] == [
        ("none", "none"),
        ("prompt-5", "prompt_cached"),
        ("prompt-5", "prompt"),
        ("prompt-7", "prompt_cached"),
        ("prompt-7", "prompt"),
        ("ptune-5", "prefix"),
        ("idp-5-7", "idp"),
        ("idp-5-7", "idp_mixed"),
        ("concat-5-7", "concat"),
        ("lora-r2", "lora"),
        ("lora-r2", "lora_merged"),
    ]
    for row in rows:
        for interval in (row["prefill"], row["prefill_ratio"], row["token"], row["token_ratio"]):
            assert 0 < interval["low"] <= interval["median"] <= interval["high"]
    assert rows[0]["prefill_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0, "coverage": 0.75}
    members = {"prompt-5", "prompt-7"}
    assert [set(row.get("cached_ratio", ())) for row in rows] == [set()] * 6 + [members] * 2 + [set()] * 3
    assert rows[6]["shares"].keys() == members and sum(rows[6]["shares"].values()) == pytest.approx(1)
    assert rows[7]["shares"] == pytest.approx({"prompt-5": 2 / 3, "prompt-7": 1 / 3})  # of three rows
    idp, cached = rows[6], {row["method"]: row for row in rows if row["variant"] == "prompt_cached"}
    for member, ratio in idp[
        "cached_ratio"
    ].items():  # paired ratios lie between the extremes of the unpaired ones
        assert idp["prefill"]["low"] / cached[member]["prefill"]["high"] <= ratio["median"]
        assert ratio["median"] <= idp["prefill"]["high"] / cached[member]["prefill"]["low"]


def test_latency_runs_what_the_method_evaluates_with(project):
    """Each row behind its chosen prompt, at the positions after it, however the rows divide."""
    settings, members = METHODS["idp-5-7"]
    recovered = attach(
        models.load_dense(project["model"]), None, settings, [project[name] for name in members]
    )
    model, bank = recovered.model, recovered.bank

    class Chosen:
        def __init__(self, rows):
            self.rows, self.asked = torch.tensor(rows), []

        def select(self, contexts):
            self.asked.append(contexts)
            return self.rows, None

    for rows, mixed, chosen in (
        ([1, 1, 0, 1], False, [1, 1, 0, 1]),
        ([1, 1, 1, 1], False, [1, 1, 1, 1]),
        ([1, 1, 1, 1], True, [0, 1, 0, 1]),
    ):
        selector, ids = Chosen(rows), torch.randint(90, (4, 12), generator=torch.Generator().manual_seed(0))
        timed = latency.Prefill(model, ids, bank, selector, mixed=mixed)
        expected, ends = [], []
        for text, index in zip(timed.ids, chosen):
            length = bank.prefixes[index].length
            with torch.no_grad():
                logits = model(
                    input_ids=text[None],
                    position_ids=torch.arange(length, length + 12)[None],
                    past_key_values=bank.cache(index, 1),
                ).logits
            expected.append(int(logits[0, -1].argmax()))
            ends.append(12 + length)
        state = timed()
        assert selector.asked == [timed.ids.tolist()]  # scoring and selection are in the time
        served = sorted(range(4), key=lambda row: chosen[row])  # the rows of the first prompt come first
        assert state.tokens.flatten().tolist() == [expected[row] for row in served]
        assert state.positions.flatten().tolist() == [ends[row] for row in served]
