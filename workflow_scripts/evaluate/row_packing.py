"""Token tries packed into rows: shared beginnings are computed once, and nothing is padded.

A sequence is what a causal model reads to score a continuation: `inputs` are the tokens fed, `targets` the
continuation, predicted by the last len(targets) of them. Sequences that begin alike share trie nodes; a node
attends to its ancestors only and stands at position = depth, so every node sees exactly what it would see alone.

A row's linear layers run over all its nodes at once. Its attention runs in blocks (`Row.blocks`): documents see
nothing of each other, the continuations of one context nothing of each other, so one mask over the whole row would
compute mostly pairs that don't count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Member = TypeVar("Member")  # index of a sequence: in one list, or of its document and in that


@dataclass(frozen=True)
class Sequence:
    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # predicted at inputs[-len(targets):]


@dataclass(frozen=True)
class RowBlock:
    """Nodes start..end-1 of a row, which attend in one call: to the nodes `above` and to ancestors among themselves.

    above: runs (start, end) of nodes, ascending: the path from the root to the parent of the block's first node.
    chain: the block is one path, so that its ancestors are its causal past.
    """

    start: int
    end: int
    above: tuple[tuple[int, int], ...]
    chain: bool

    def __len__(self) -> int:
        return self.end - self.start


@dataclass
class PackedRow:
    """One packed row of trie nodes, parents before their children; depth first if the sequences came sorted."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # index of the parent node, -1 for a root
    depths: list[int] = field(default_factory=list)
    scored: list[list[int]] = field(default_factory=list)  # per sequence: the nodes that predict its targets
    members: list = field(default_factory=list)  # per sequence: its index in the packed list
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (node, token) -> node

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def predicting(self) -> set[int]:
        """The nodes whose logits are needed."""
        return {node for path in self.scored for node in path}

    def add(self, sequence: Sequence, member: object) -> None:
        node, path = -1, []
        for depth, token in enumerate(sequence.inputs):
            child = self.children.get((node, token))
            if child is None:
                child = self.children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            node = child
            path.append(child)
        self.scored.append(path[-len(sequence.targets) :])
        self.members.append(member)

    def missing(self, other: "PackedRow") -> int:
        """The number of `other`'s nodes that this row lacks."""
        mine = {-1: -1}  # node of other -> node of this row
        for node, (token, parent) in enumerate(zip(other.tokens, other.parents, strict=True)):
            if parent in mine and (mine[parent], token) in self.children:
                mine[node] = self.children[mine[parent], token]
        return len(other) - (len(mine) - 1)

    def visible(self, start: int, end: int) -> np.ndarray:
        """Boolean (end - start, end - start): node i sees node j where j is i or an ancestor of i."""
        mask = np.zeros((end - start, end - start), dtype=bool)
        for node in range(start, end):
            if self.parents[node] >= start:
                mask[node - start] = mask[self.parents[node] - start]
            mask[node - start, node - start] = True
        return mask

    def blocks(self, prefix: int = 0, overhead: int = 1000) -> list[RowBlock]:
        """A cheap division into blocks, where a block of L nodes below A others costs L (prefix + A + L) pairs.

        prefix: columns that every node sees (a prompt's). overhead: what one attention call costs beside its pairs, in
        pairs. The row's nodes must lie depth first. Chosen at each branching: a trunk and its branches apart, or
        all in one block with a mask; neighbours are joined as long as that is cheaper.
        """
        ends = list(range(1, len(self) + 1))  # of each node's subtree
        for node in range(len(self) - 1, -1, -1):
            if self.parents[node] >= 0:
                ends[self.parents[node]] = max(ends[self.parents[node]], ends[node])

        def divide(start: int, end: int, above: tuple, height: int) -> tuple[int, list[RowBlock]]:
            """Cost and blocks of the sibling subtrees that fill start..end-1, `height` nodes above them."""

            def whole(first: int, last: int) -> int:
                return (last - first) * (prefix + height + last - first) + overhead

            parts: list[tuple[int, int, int, list[RowBlock]]] = []  # start, end, cost, blocks
            child = start
            while child < end:
                fork = child
                while fork + 1 < ends[child] and ends[fork + 1] == ends[child]:
                    fork += 1
                cost = whole(child, fork + 1)
                blocks = [RowBlock(child, fork + 1, above, chain=True)]
                if fork + 1 < ends[child]:
                    below, runs = fork + 1 - child, _joined(above, (child, fork + 1))
                    more, rest = divide(fork + 1, ends[child], runs, height + below)
                    if cost + more < whole(child, ends[child]):
                        cost, blocks = cost + more, blocks + rest
                    else:
                        cost = whole(child, ends[child])
                        blocks = [RowBlock(child, ends[child], above, chain=False)]
                parts.append((child, ends[child], cost, blocks))
                if len(parts) > 1 and whole(parts[-2][0], parts[-1][1]) <= parts[-2][2] + parts[-1][2]:
                    first, last = parts[-2][0], parts[-1][1]
                    parts[-2:] = [
                        (first, last, whole(first, last), [RowBlock(first, last, above, chain=False)])
                    ]
                child = ends[child]
            return sum(part[2] for part in parts), [block for part in parts for block in part[3]]

        return divide(0, len(self), (), 0)[1]


def _joined(runs: tuple[tuple[int, int], ...], run: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """`runs` and one more, which lengthens the last if it follows directly."""
    if runs and runs[-1][1] == run[0]:
        return (*runs[:-1], (runs[-1][0], run[1]))
    return (*runs, run)


def pack_rows(
    groups: Iterable[list[tuple[Member, Sequence]]], row_tokens: int, most: int | None = None
) -> list[PackedRow]:
    """Pack groups (one document's sequences with their indices; a group is never split) into rows.

    Groups are taken in the order of their tokens, so that neighbours share most. A row is closed when the next
    group would push it over `row_tokens` nodes, or over `most` sequences; a group that alone is larger has a row of
    its own. Rows lie depth first.
    """
    packed: list[tuple[PackedRow, list]] = []
    for group in sorted(groups, key=lambda group: group[0][1].inputs):
        own = PackedRow()
        for member, sequence in group:
            own.add(sequence, member)
        full = bool(packed) and most is not None and len(packed[-1][1]) + len(group) > most
        if not packed or full or len(packed[-1][0]) + packed[-1][0].missing(own) > row_tokens:
            packed.append((own, list(group)))
            continue
        for member, sequence in group:
            packed[-1][0].add(sequence, member)
        packed[-1][1].extend(group)
    return [_depth_first(sequences) for _, sequences in packed]


def _depth_first(sequences: list[tuple[Member, Sequence]]) -> PackedRow:
    row = PackedRow()
    for member, sequence in sorted(sequences, key=lambda pair: pair[1].inputs):
        row.add(sequence, member)
    return row
