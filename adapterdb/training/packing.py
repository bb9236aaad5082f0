"""The sequences of N passages as one batch in which what they share is there once.

Sequences of a passage that begin alike (the same passage before several questions) are one tree of
tokens. A batch has one of two forms, whichever is less work:

    tree   R rows a passage, each the tree of some of its sequences: every node is there once, at
           its own depth, and sees its ancestors only
    flat   M rows a passage: each sequence by itself, as a serial loop has it

Both say the same in exact arithmetic. Knows no model: whether one can read a tree is for
``shortcuts`` to say. Shapes: N passages, B rows, T columns, n labelled places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import Normalize

Array = NDArray[Any]
_MANY = 16  # sequences of a passage up to which ways between all rows and one are looked at
_ATTENTION = 2  # attention over T columns is to a linear as T to so many H, on a CPU


class Tree:
    """The distinct beginnings of some sequences; parents come before their children.

    Args:
        sequences: of one passage.

    Attributes:
        ids, depths: int64 ``(W,)``, each node's token and its position in the sequence.
        paths: for each sequence its nodes, int64 ``(T,)``.
    """

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self.sequences = sequences
        children: dict[tuple[int, int], int] = {}
        self.paths = []
        for sequence in sequences:
            node, nodes = -1, []
            for token in sequence.ids:
                node = children.setdefault((node, token), len(children))
                nodes.append(node)
            self.paths.append(np.array(nodes, dtype=np.int64))
        self.ids = np.array([token for _, token in children], dtype=np.int64)
        self.depths = np.zeros(len(children), dtype=np.int64)
        for path in self.paths:
            self.depths[path] = np.arange(len(path))

    def nodes(self, which: Sequence[int]) -> Array:
        """The nodes of some sequences together, parents first."""
        if len(which) == 1:
            return self.paths[which[0]]
        return np.unique(np.concatenate([self.paths[j] for j in which]))


@dataclass(frozen=True)
class Packed:
    """One batch.

    Args:
        ids, positions: int64 ``(B, T)``; row b belongs to passage ``b // (B / N)``.
        mask: bool ``(B, 1, T, T)``, which columns each column sees (``tree``), or int64 ``(B, T)``
            with 1 for tokens and 0 for the padding at the right (``flat``).
        nodes: int64 ``(B, T)``, the number of each column's node among those of all trees.
        tokens: bool ``(B, T)``, false for padding.
        places: int64 ``(n,)``, labelled places, counted over the flattened ``(B, T)``.
        labels: int64 ``(n,)``, the token to be said there; a pair of both is there once.
        owners: int64 ``(n,)``, the passage, 0 to N - 1.
        shares: float32 ``(n,)``, what each counts in the loss that is learned from.
        plain: float32 ``(n,)``, the same without weights: what is reported.
        passages: N.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    nodes: Tensor
    tokens: Tensor
    places: Tensor
    labels: Tensor
    owners: Tensor
    shares: Tensor
    plain: Tensor
    passages: int
    distinct: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "distinct", torch.unique(self.places))

    @property
    def is_tree(self) -> bool:
        """Whether rows are trees."""
        return self.mask.dim() == 4

    def sums(self, each: Tensor, shares: Tensor) -> Tensor:
        """Each passage's sum ``(N,)`` of ``each * shares``, both ``(n,)``."""
        return each.new_zeros(self.passages).index_add(0, self.owners, each * shares)


def pack(
    trees: Sequence[Tree],
    chosen: Sequence[Sequence[int]],
    *,
    whole: Sequence[Sequence[int]] | None = None,
    offsets: Sequence[int],
    hidden_size: int,
    widest_tree: int,
    normalize: Normalize,
    device: torch.device,
) -> Packed:
    """A batch of some sequences of each passage.

    Args:
        trees: of N passages.
        chosen: for each the numbers of its sequences in this batch, at least one.
        whole: for each those of the step that this batch is a part of; None means ``chosen``.
        offsets: for each the number of its first node among those of all trees.
        hidden_size: H, to weigh attention against linears.
        widest_tree: T that a tree may have; 0 where the model reads no trees.
        normalize: of weights, see ``Recipe``.
        device: of the result.
    """
    plans = _plans(trees, chosen) if widest_tree else [[[[j] for j in which] for which in chosen]]
    costs = []
    for plan in plans:
        rows = max(len(groups) for groups in plan)
        width = max(
            len(tree.nodes(g)) for tree, groups in zip(trees, plan, strict=True) for g in groups
        )
        allowed = rows == max(map(len, chosen)) or width <= widest_tree
        work = rows * width * (1 + width / (_ATTENTION * hidden_size))
        costs.append((work if allowed else float("inf"), rows, max(2, width)))
    best = min(range(len(plans)), key=lambda i: costs[i])
    (_, rows, width), plan = costs[best], plans[best]
    as_tree = rows < max(map(len, chosen))
    shape = (len(trees) * rows, width)
    ids, positions, nodes = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    tokens = np.zeros(shape, dtype=bool)
    sees = np.zeros((*shape, width), dtype=bool) if as_tree else None
    if sees is not None:
        sees[:, range(width), range(width)] = True
    found = []
    for n, (tree, groups) in enumerate(zip(trees, plan, strict=True)):
        column = np.full(len(tree.ids), -1)  # the flattened place of each node, in any of its rows
        for row, group in enumerate(groups, start=n * rows):
            mine = tree.nodes(group)
            ids[row, : len(mine)] = tree.ids[mine]
            positions[row, : len(mine)] = tree.depths[mine]
            nodes[row, : len(mine)] = mine + offsets[n]
            tokens[row, : len(mine)] = True
            column[mine] = row * width + np.arange(len(mine))
            for j in group if sees is not None else ():
                path = column[tree.paths[j]] - row * width
                sees[row][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)  # type: ignore[index]
        found.append(_targets(tree, chosen[n], (whole or chosen)[n], column, n, normalize))
    places, labels, owners, shares, plain = (np.concatenate(part) for part in zip(*found))  # noqa: B905

    attended = tokens.astype(np.int64)
    attended[:, 0] = 1  # attention over nothing is undefined

    def tensor(array: Array) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Packed(
        tensor(ids), tensor(positions),
        tensor(attended) if sees is None else tensor(sees)[:, None],
        tensor(nodes), tensor(tokens), tensor(places), tensor(labels), tensor(owners),
        tensor(shares), tensor(plain), len(trees),
    )  # fmt: skip


def _plans(trees: Sequence[Tree], chosen: Sequence[Sequence[int]]) -> list[list[list[list[int]]]]:
    """Ways to put the sequences of each passage into M, M - 1, .. 1 rows; neighbours share most.

    Each way has for each passage its groups of sequences. Where there are many, only M and 1.
    """
    ordered = [
        sorted(which, key=lambda j: tree.sequences[j].ids)
        for tree, which in zip(trees, chosen, strict=True)
    ]
    most = max(map(len, chosen))
    flat = [[[j] for j in which] for which in chosen]
    if most > _MANY:
        return [flat, [[list(which)] for which in chosen]]
    plans, now = [flat], [[[j] for j in which] for which in ordered]
    for rows in range(most - 1, 0, -1):
        for tree, groups in zip(trees, now, strict=True):
            if len(groups) > rows:
                sizes = [len(tree.nodes(a + b)) for a, b in pairwise(groups)]
                i = sizes.index(min(sizes))
                groups[i : i + 2] = [groups[i] + groups[i + 1]]
        plans.append([list(groups) for groups in now])
    return plans


def _targets(
    tree: Tree,
    which: Sequence[int],
    whole: Sequence[int],
    column: Array,
    owner: int,
    normalize: Normalize,
) -> tuple[Array, Array, Array, Array, Array]:
    """Places, labels, owners, shares and plain shares of one passage; equal pairs are joined."""
    places, labels, weights = [], [], []
    for j in which:
        ids, first = tree.sequences[j].ids, max(tree.sequences[j].loss_from, 1)
        labels.append(np.array(ids[first:], dtype=np.int64))
        places.append(column[tree.paths[j][first - 1 : first - 1 + len(ids[first:])]])
        weights.append(_weights(tree.sequences[j]))
    every = np.concatenate([_weights(tree.sequences[j]) for j in whole])
    gain = len(every) / every.sum() if normalize == "sum_to_len" and every.sum() > 0 else 1.0
    pairs, back = np.unique(
        np.stack([np.concatenate(places), np.concatenate(labels)]), axis=1, return_inverse=True
    )
    back, count, total = back.reshape(-1), pairs.shape[1], max(len(every), 1)
    shares = np.bincount(back, weights=np.concatenate(weights), minlength=count) * gain / total
    plain = np.bincount(back, minlength=count) / total
    owners = np.full(count, owner, dtype=np.int64)
    return pairs[0], pairs[1], owners, shares.astype(np.float32), plain.astype(np.float32)


def _weights(sequence: TokenSequence) -> Array:
    """Those of the labelled tokens, float64."""
    first = max(sequence.loss_from, 1)
    if sequence.weights is None:
        return np.ones(len(sequence.ids[first:]))
    return np.array(sequence.weights[first:], dtype=np.float64)


def batches(tokens: Sequence[int], limit: int) -> list[list[int]]:
    """Numbers of items, those of similar length together.

    Args:
        tokens: what each item takes.
        limit: of a batch: its longest item times how many there are; one item may exceed it.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(tokens)), key=lambda i: tokens[i]):
        if found and tokens[i] * (len(found[-1]) + 1) <= limit:
            found[-1].append(i)
        else:
            found.append([i])
    return found
