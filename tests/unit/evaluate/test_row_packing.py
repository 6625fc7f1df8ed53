"""Tries and rows: everything is there once, nodes see their ancestors, groups stay whole, blocks miss nothing."""

import numpy as np
import pytest

from workflow_scripts.evaluate.row_packing import PackedRow, Sequence, pack_rows


def rebuild(row: PackedRow, node: int) -> list[int]:
    tokens = []
    while node >= 0:
        tokens.append(row.tokens[node])
        node = row.parents[node]
    return tokens[::-1]


def test_shared_beginnings_are_stored_once_and_paths_spell_the_sequences():
    sequences = [Sequence((1, 2, 3, 4), (9, 9)), Sequence((1, 2, 5), (8,)), Sequence((1, 2), (7,))]
    row = PackedRow()
    for n, sequence in enumerate(sequences):
        row.add(sequence, n)
    assert len(row) == 5  # 1 2 3 4 and 5
    for sequence, path in zip(sequences, row.scored, strict=True):
        assert len(path) == len(sequence.targets)
        assert rebuild(row, path[-1]) == list(sequence.inputs)
    assert row.depths == [0, 1, 2, 3, 2]


def test_a_node_sees_its_ancestors_and_itself():
    row = PackedRow()
    for n, inputs in enumerate([(1, 2, 3), (1, 4), (5,)]):
        row.add(Sequence(inputs, (0,)), n)
    visible = row.visible(0, len(row))
    for node in range(len(row)):
        assert set(np.flatnonzero(visible[node])) == ancestors(row, node)


def ancestors(row: PackedRow, node: int) -> set[int]:
    """The node and those above it."""
    found = {node}
    while row.parents[node] >= 0:
        node = row.parents[node]
        found.add(node)
    return found


def random_row(seed: int, documents: int = 12) -> PackedRow:
    random = np.random.default_rng(seed)
    groups = []
    for n in range(documents):
        context = tuple(random.integers(0, 3, random.integers(1, 12)))
        choices = [tuple(random.integers(0, 3, random.integers(1, 9))) for _ in range(4)]
        groups.append([((n, i), Sequence(context + choice, (0,))) for i, choice in enumerate(choices)])
    (row,) = pack_rows(groups, 10_000)
    return row


@pytest.mark.parametrize("overhead", [0, 10, 100, 100_000])
@pytest.mark.parametrize("prefix", [0, 7])
def test_blocks_let_every_node_see_its_ancestors_and_nothing_else(overhead, prefix):
    for seed in range(10):
        row = random_row(seed)
        blocks = row.blocks(prefix, overhead)
        assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
        assert blocks[0].start == 0 and blocks[-1].end == len(row)
        for block in blocks:
            above = {node for start, end in block.above for node in range(start, end)}
            inner = row.visible(block.start, block.end)
            if block.chain:
                assert (inner == np.tri(len(block), dtype=bool)).all()
            for node in range(block.start, block.end):
                seen = {block.start + i for i in np.flatnonzero(inner[node - block.start])}
                assert above | seen == ancestors(row, node)


def test_blocks_divide_where_it_pays_and_join_where_calls_are_dear():
    row = random_row(0)
    pairs = {
        overhead: sum(len(b) * (sum(e - s for s, e in b.above) + len(b)) for b in row.blocks(0, overhead))
        for overhead in (0, 50, 100_000)
    }
    counts = {overhead: len(row.blocks(0, overhead)) for overhead in pairs}
    assert pairs[0] < pairs[50] < pairs[100_000] == len(row) ** 2
    assert counts[0] > counts[50] > counts[100_000] == 1
    chain = PackedRow()
    chain.add(Sequence((1, 2, 3, 4), (5,)), 0)
    assert [(b.start, b.end, b.above, b.chain) for b in chain.blocks()] == [(0, 4, (), True)]


def test_missing_counts_what_adding_adds():
    row, other = PackedRow(), PackedRow()
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
    rows = pack_rows(groups, 64)
    assert sorted(member for row in rows for member in row.members) == [
        (n, i) for n in range(40) for i in range(4)
    ]
    assert all(len(row) <= 64 for row in rows)
    for row in rows:
        assert all(sum(m[0] == n for m in row.members) in (0, 4) for n in range(40))
    assert len(pack_rows(groups, 10_000)) == 1
    # Longer than a row: a row of its own.
    assert len(pack_rows([[(0, Sequence(tuple(range(100)), (0,)))]], 10)) == 1
