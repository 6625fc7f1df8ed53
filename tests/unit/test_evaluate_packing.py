"""Tries and rows: everything is there once, nodes see their ancestors, groups stay whole."""

import numpy as np

from workflow_scripts.evaluate.packing import Row, Sequence, pack


def rebuild(row: Row, node: int) -> list[int]:
    tokens = []
    while node >= 0:
        tokens.append(row.tokens[node])
        node = row.parents[node]
    return tokens[::-1]


def test_shared_beginnings_are_stored_once_and_paths_spell_the_sequences():
    sequences = [Sequence((1, 2, 3, 4), (9, 9)), Sequence((1, 2, 5), (8,)), Sequence((1, 2), (7,))]
    row = Row()
    for n, sequence in enumerate(sequences):
        row.add(sequence, n)
    assert len(row) == 5  # 1 2 3 4 and 5
    for sequence, path in zip(sequences, row.scored, strict=True):
        assert len(path) == len(sequence.targets)
        assert rebuild(row, path[-1]) == list(sequence.inputs)
    assert row.depths == [0, 1, 2, 3, 2]


def test_a_node_sees_its_ancestors_and_itself():
    row = Row()
    for n, inputs in enumerate([(1, 2, 3), (1, 4), (5,)]):
        row.add(Sequence(inputs, (0,)), n)
    visible = row.visible()
    for node in range(len(row)):
        ancestors, walk = {node}, row.parents[node]
        while walk >= 0:
            ancestors.add(walk)
            walk = row.parents[walk]
        assert set(np.flatnonzero(visible[node])) == ancestors
    assert not row.is_chain()


def test_missing_counts_what_adding_adds():
    row, other = Row(), Row()
    row.add(Sequence((1, 2, 3), (0,)), 0)
    for n, inputs in enumerate([(1, 2, 4, 3), (1, 5), (3,)]):
        other.add(Sequence(inputs, (0,)), n)
    expected = row.missing(other)
    before = len(row)
    for n, inputs in enumerate([(1, 2, 4, 3), (1, 5), (3,)]):
        row.add(Sequence(inputs, (0,)), n)
    assert len(row) - before == expected == 4


def test_rows_keep_to_their_length_and_groups_stay_whole():
    random = np.random.default_rng(0)
    groups = []
    for n in range(40):
        context = tuple(random.integers(0, 50, random.integers(1, 20)))
        groups.append([((n, i), Sequence((*context, i), (0,))) for i in range(4)])
    rows = pack(groups, 64)
    assert sorted(member for row in rows for member in row.members) == [
        (n, i) for n in range(40) for i in range(4)
    ]
    assert all(len(row) <= 64 for row in rows)
    for row in rows:
        assert all(sum(m[0] == n for m in row.members) in (0, 4) for n in range(40))
    assert len(pack(groups, 10_000)) == 1
    assert (
        len(pack([[(0, Sequence(tuple(range(100)), (0,)))]], 10)) == 1
    )  # longer than a row: a row of its own
