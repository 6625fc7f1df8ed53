"""The scorer used alone, as the page says: its code runs, with the numbers of the harness's own model."""

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from tests.docs.examples import ROOT, blocks
from tests.equivalence import scorer_models


def test_the_page_runs_and_gives_the_harness_numbers(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "resources/models/smollm2-135m"
    scorer_models.model("llama").save_pretrained(folder)
    scorer_models.tokenizer().save_pretrained(folder)
    scorer_models.write_benchmarks(tmp_path / "resources/benchmarks/pypi")
    monkeypatch.chdir(tmp_path)
    alone, *_ = [b for b in blocks(ROOT / "docs/howto/evaluator.md") if b.language == "python"]
    names = {}
    exec(alone.content, names)
    assert capsys.readouterr().out.splitlines()[-1] == str(names["found"]["results"]["arc_easy"]["acc,none"])
    harness = HFLM(pretrained=names["model"], tokenizer=names["tokenizer"], batch_size=4)
    expected = evaluate(harness, {"tasks": {"arc_easy": names["task"].task}}, bootstrap_iters=0)
    assert names["found"]["results"]["arc_easy"]["acc,none"] == expected["results"]["arc_easy"]["acc,none"]
    pairs = zip(names["found"]["samples"]["arc_easy"], expected["samples"]["arc_easy"], strict=True)
    for mine, theirs in pairs:
        for ours, reference in zip(mine["filtered_resps"], theirs["filtered_resps"], strict=True):
            assert ours[0] == pytest.approx(reference[0], abs=1e-4)
