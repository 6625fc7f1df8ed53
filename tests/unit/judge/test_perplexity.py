"""Which perplexity compares cells, and what is read of an evaluation older than the protocols."""

import pytest

from workflow_scripts.judge.perplexity import compared, heldout, protocol, references
from workflow_scripts.judge.results import Results
from workflow_scripts.plan.layout import Cell

WINDOWED, REFERENCE = {"token": 15.08}, {"token": 35.74}
CELL = Cell("g", "m", "dense", "c4", "none", 0)


def evaluation(figures: dict, bos: bool | None = True) -> dict:
    config = {} if bos is None else {"bos": bos}
    return {"perplexity": {"wikipedia": figures}, "manifest": {"config": config}}


def test_cells_are_compared_by_the_windowed_figure():
    both = evaluation({"windowed": WINDOWED, "reference": REFERENCE})
    assert compared(both) == {"wikipedia": WINDOWED} and protocol(both) == "windowed"
    assert references(both) == {"wikipedia": REFERENCE}
    assert heldout(Results("g", {}, {CELL: both}), CELL) == 15.08
    assert references(evaluation({"windowed": WINDOWED, "reference": WINDOWED})) == {}


@pytest.mark.parametrize(("bos", "name"), [(True, "reference"), (False, "windowed"), (None, "windowed")])
def test_an_older_evaluation_has_one_figure_whose_protocol_its_bos_tells(bos, name):
    old = evaluation(WINDOWED, bos)
    assert compared(old) == {"wikipedia": WINDOWED} and protocol(old) == name and references(old) == {}


def test_a_corpus_that_was_not_measured_gives_way_to_the_first_that_was():
    both = {"windowed": WINDOWED, "reference": REFERENCE}
    measured = {"perplexity": {"wikipedia": both, "c4": both | {"windowed": {"token": 9.0}}}}
    results = Results(
        "g",
        {},
        {CELL: measured, CELL._replace(corpus="none"): measured, CELL._replace(seed=1): {"perplexity": {}}},
    )
    assert heldout(results, CELL) == 9.0
    assert heldout(results, CELL._replace(corpus="none")) == 15.08
    assert heldout(results, CELL._replace(seed=1)) is None
