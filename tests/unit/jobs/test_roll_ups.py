"""Jobs that read another job's table: an edited one gets into nothing."""

import pandas as pd
import pytest

from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.jobs import build_ledger, find_answers, judge
from workflow_scripts.judge.judgement import Question


@pytest.fixture
def cells(tmp_path):
    return [str(path) for path in write_grid(tmp_path, study("m", {"lora-r4": 0.1}), items=5)]


def test_an_edited_table_never_gets_into_what_is_made_from_it(cells, tmp_path):
    answers, ledger, verdict = (str(tmp_path / name) for name in ("a.parquet", "l.parquet", "v.json"))
    find_answers.main(cells, {}, {}, answers)
    build_ledger.main(cells, PAIR, answers, ledger)
    judge.main(cells, Question(PAIR), CATALOGUE, ledger, verdict)
    assert read_json(verdict, schema="verdict")["rates"]
    for table, read_on in (
        (ledger, lambda: judge.main(cells, Question(PAIR), CATALOGUE, ledger, verdict)),
        (answers, lambda: build_ledger.main(cells, PAIR, answers, ledger)),
    ):
        pd.read_parquet(table)[1:].to_parquet(table, index=False)
        with pytest.raises(ArtifactError, match=f"{table}: was changed after it was written"):
            read_on()
