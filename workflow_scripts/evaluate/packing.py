"""Token tries packed into rows: what several sequences share is computed once, and nothing is padded.

A sequence is what a causal model reads to score a continuation: `inputs` are the tokens fed, `targets` the
continuation, predicted by the last len(targets) of them. Sequences that begin alike share trie nodes; a node
attends to its ancestors only and stands at position = depth, so every node sees exactly what it would see alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sequence:
    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # predicted at inputs[-len(targets):]


@dataclass
class Row:
    """One packed row of trie nodes, parents before their children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # index of the parent node, -1 for a root
    depths: list[int] = field(default_factory=list)
    scored: list[list[int]] = field(default_factory=list)  # per sequence: the nodes that predict its targets
    members: list[int] = field(default_factory=list)  # per sequence: its index in the packed list
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (node, token) -> node

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence, member: int) -> None:
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

    def missing(self, other: "Row") -> int:
        """How many of `other`'s nodes this row doesn't have."""
        mine = {-1: -1}  # node of other -> node of this row
        for node, (token, parent) in enumerate(zip(other.tokens, other.parents, strict=True)):
            if parent in mine and (mine[parent], token) in self.children:
                mine[node] = self.children[mine[parent], token]
        return len(other) - (len(mine) - 1)

    def visible(self) -> np.ndarray:
        """Boolean (T, T): node i sees node j where j is i or an ancestor of i."""
        mask = np.zeros((len(self), len(self)), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] = mask[parent]
            mask[node, node] = True
        return mask

    def is_chain(self) -> bool:
        """Whether the trie is one path: then the ordinary causal mask is the tree mask."""
        return self.depths[-1] == len(self) - 1


def pack(groups: Iterable[list[tuple[int, Sequence]]], row_tokens: int) -> list[Row]:
    """Pack groups (one document's sequences with their indices; a group is never split) into rows.

    Groups are taken in the order of their tokens, so that neighbours share most. A row is closed when the next
    group would push it over `row_tokens` nodes, or over twice the group's own where that alone is larger.
    """
    rows: list[Row] = []
    for group in sorted(groups, key=lambda group: group[0][1].inputs):
        own = Row()
        for member, sequence in group:
            own.add(sequence, member)
        if not rows or len(rows[-1]) + rows[-1].missing(own) > max(row_tokens, 2 * len(own)):
            rows.append(own)
            continue
        for member, sequence in group:
            rows[-1].add(sequence, member)
    return rows
