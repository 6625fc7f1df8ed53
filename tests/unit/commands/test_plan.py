"""What a half-width costs: the needed items are those of the components, and the hours those of the forecast."""

import numpy as np
import pytest

from tests.unit.synthetic_results import CATALOGUE, study, write_grid
from workflow_scripts.commands import plan
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.judge.components import Components
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results

PAIR = {"prompt": "prompt-50", "lora": "lora-r2"}
ROOT = plan.files(root=plan.Path(__file__).parents[3])


def verdict_of(folder, seeds):
    truth = study("m", dict.fromkeys(PAIR.values(), 0.1))
    for place in [key[:4] for key in truth if key[3] != "none" or key[1] != "dense"]:
        truth |= {(*place, seed): truth[*place, 0] for seed in seeds}
    results = read_results(write_grid(folder, truth, 40, 0.1))
    return judge_grid(results, Question(PAIR), CATALOGUE, Resampling(200))


def test_needed_items_reach_the_half_width_and_fewer_do_not():
    parts = [Components(4e-4, 1e-4, 1e-4, 9.0, 5), Components(2e-4, 5e-5, 2e-4, 9.0, 5)]
    times = plan.needed_items(parts, 0.04, 5)
    widths = [max(part.half_width(factor, 5) for part in parts) for factor in (times, 0.99 * times)]
    assert widths[0] <= 0.04 < widths[1]
    assert plan.needed_items(parts, 0.04, 8) < times
    assert plan.needed_items(parts, 0.02, 5) is None  # the copies' own variance is larger than that
    assert np.isinf(parts[0].half_width(1e9, 1))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_table_has_a_line_per_number_of_replicates(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.chdir(tmp_path)
    verdict = verdict_of(tmp_path / "made", seeds)
    write_json("results/bench/verdict.json", verdict, schema="verdict")
    monkeypatch.setattr(plan, "files", lambda *named: ROOT)
    assert plan.main("bench", half_width=3.0, blocks=["core"]) == 0
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert "seen so far with 40 items a task" in head and names.split() == [
        "replicates",
        "items",
        "a",
        "task",
        "hours",
    ]
    if len(seeds) == 1:
        assert rows[0].split()[0] == "1" and rows[1].startswith("One copy shows nothing")
    else:
        items = [int(row.split()[1].replace(",", "")) for row in rows if "never" not in row]
        assert len(rows) == len(plan.REPLICATES) and items and items == sorted(items, reverse=True)
        counts = plan.REPLICATES[-len(items) :]  # the first few reach it with no number of items
        parts = plan.components_of(verdict)
        for count, wanted in zip(counts, items, strict=True):
            assert max(part.half_width(wanted / 40, count) for part in parts) <= 0.03


def test_a_group_of_one_copy_leaves_the_others_their_replicates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    verdict, alone = (verdict_of(tmp_path / str(len(seeds)), seeds) for seeds in ((0, 1, 2), (0,)))
    verdict["groups"] += [group | {"corpus": "c4"} for group in alone["groups"]]
    write_json("results/bench/verdict.json", verdict)
    monkeypatch.setattr(plan, "files", lambda *named: ROOT)
    assert plan.main("bench", half_width=3.0, blocks=["core"]) == 0
    *_, rows, note = capsys.readouterr().out.splitlines()
    assert rows.split()[0] == str(plan.REPLICATES[-1]) and "never" not in rows
    assert note.startswith("One copy") and "(here items alone count)" in note


def test_without_a_verdict_or_its_components_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "files", lambda *named: ROOT)
    with pytest.raises(ArtifactError, match="not there yet; run the grid with few items"):
        plan.main("bench")
    truth = {("m", "dense", "none", "none", 0): 0.7}
    results = read_results(write_grid(tmp_path / "made", truth, 10))
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(50))
    write_json("results/bench/verdict.json", verdict, schema="verdict")
    with pytest.raises(ArtifactError, match="no group has the pair"):
        plan.main("bench")


@pytest.mark.parametrize("half_width", [0.0, -1.0, float("nan"), float("inf")])
def test_a_half_width_that_is_none_is_refused(half_width):
    with pytest.raises(ArtifactError, match=r"half-width: .* is not allowed; give a number above 0"):
        plan.main("bench", half_width=half_width)


def test_items_that_a_block_cannot_have_are_said_in_their_line(tmp_path, monkeypatch, capsys):
    """Block recovery trains on items that the grid does not score: it refuses to score all of them."""
    monkeypatch.chdir(tmp_path)
    write_json("results/bench/verdict.json", verdict_of(tmp_path / "made", (0,)), schema="verdict")
    monkeypatch.setattr(plan, "files", lambda *named: ROOT)
    assert plan.main("bench", half_width=0.5) == 0
    assert "not with these blocks: grids.bench.blocks.recovery" in capsys.readouterr().out
    assert plan.main("bench", half_width=0.5, blocks=["core"]) == 0  # the others' limits are not asked
    _, items, hours, *_ = capsys.readouterr().out.splitlines()[2].split()
    assert int(items.replace(",", "")) > 1172 and float(hours) > 0
