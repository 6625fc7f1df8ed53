"""Tables that other jobs read: what was changed after it was written is refused by name."""

import pandas as pd
import pytest
from pyarrow import parquet

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.sealed_tables import SEAL, read_table, write_table


@pytest.fixture
def frame():
    """Every type of column that the ledger has, with nulls."""
    return pd.DataFrame(
        {
            "task": ["sciq", "piqa", "ärger"],
            "doc_id": [3, 1, 2],
            "correct/none": pd.array([True, None, False], dtype="boolean"),
            "margin/none": [0.5, float("nan"), -1.0],
            "prediction/none": ["a", None, "\u0000"],
            "known": [True, False, None],
        }
    )


@pytest.fixture
def file(tmp_path, frame):
    write_table(tmp_path / "ledger.parquet", frame)
    return tmp_path / "ledger.parquet"


def test_a_table_is_read_as_it_was_written(frame, file, tmp_path):
    pd.testing.assert_frame_equal(read_table(file), frame, check_dtype=False)
    write_table(file, read_table(file))
    pd.testing.assert_frame_equal(read_table(file), frame, check_dtype=False)
    write_table(tmp_path / "empty.parquet", frame[:0])
    assert not len(read_table(tmp_path / "empty.parquet"))


EDITS = [
    lambda frame: frame[1:],
    lambda frame: frame.assign(doc_id=1),
    lambda frame: frame.rename(columns={"known": "told"}),
    lambda frame: frame.assign(**{"correct/none": ~frame["correct/none"]}),
    lambda frame: frame.sort_values("doc_id"),
]


@pytest.mark.parametrize("edit", EDITS)
def test_other_content_under_the_seal_of_the_former_is_refused(edit, file):
    seal = parquet.read_schema(file).metadata[SEAL]
    edit(pd.read_parquet(file)).to_parquet(file, index=False)
    table = parquet.read_table(file)
    parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, SEAL: seal}), file)
    with pytest.raises(ArtifactError, match=r"ledger\.parquet: was changed after it was written"):
        read_table(file)


def test_a_table_that_a_notebook_wrote_back_is_refused(file):
    pd.read_parquet(file).to_parquet(file, index=False)
    with pytest.raises(ArtifactError, match=r"ledger\.parquet: was changed after it was written"):
        read_table(file)


def test_a_table_that_is_cut_short_is_named(file):
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"ledger\.parquet: can't be read .* delete it to make it again"):
        read_table(file)
