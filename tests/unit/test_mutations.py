"""The table of mends is in step with the code and the tests: `python -m tests.mutations` can take each of them out."""

import ast

import pytest

from tests import mutations


@pytest.mark.parametrize("mend", mutations.MENDS, ids=lambda mend: mend.name)
def test_a_mend_stands_where_the_table_says_and_its_test_is_there(mend):
    text = (mutations.ROOT / mend.file).read_text()
    assert text.count(mend.text) == 1 and mend.text != mend.without
    ast.parse(text.replace(mend.text, mend.without))
    file, _, name = mend.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (mutations.ROOT / file).read_text()


def test_names_are_told_apart_and_chosen_by_their_beginning():
    names = [mend.name for mend in mutations.MENDS]
    assert len({*names}) == len(names)
    assert [mend.name[:2] for mend in mutations.chosen(["S7"])] == ["S7"] * 5
    assert mutations.chosen([]) == [*mutations.MENDS]
