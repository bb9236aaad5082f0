"""The sequences of N passages as one batch in which what they share is there once.

Sequences of a passage that begin alike (the same passage before several questions) are one tree of
tokens. A batch has one of two forms, whichever is less work:

    tree   one row a passage: its tree's nodes, each at its own depth, seeing its ancestors only
    flat   M rows a passage: each sequence by itself, as a serial loop has it

Both say the same in exact arithmetic. Knows no model: whether one can read a tree is for
``shortcuts`` to say. Shapes: N passages, B rows, T columns, n labelled places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import Normalize

Array = NDArray[Any]
_ATTENTION = 6  # a column's attention over T others costs T / (6 H) of its linears


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
    used = [
        np.unique(np.concatenate([tree.paths[j] for j in which]))
        for tree, which in zip(trees, chosen, strict=True)
    ]
    wide = max(2, max(len(nodes) for nodes in used))
    long = max(
        2, max(len(t.paths[j]) for t, which in zip(trees, chosen, strict=True) for j in which)
    )
    many = max(len(which) for which in chosen)

    def work(columns: int, width: int) -> float:
        return columns * (1 + width / (_ATTENTION * hidden_size))

    as_tree = many > 1 and wide <= widest_tree and work(wide, wide) < work(many * long, long)
    rows, width = (1, wide) if as_tree else (many, long)
    shape = (len(trees) * rows, width)
    ids, positions, nodes = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    tokens = np.zeros(shape, dtype=bool)
    sees = np.zeros((*shape, width), dtype=bool) if as_tree else None
    if sees is not None:
        sees[:, range(width), range(width)] = True
    found = []
    for n, (tree, which) in enumerate(zip(trees, chosen, strict=True)):
        column = np.full(len(tree.ids), -1)  # the flattened place of each node
        runs = [(n * rows, used[n])] if as_tree else [
            (n * rows + i, tree.paths[j]) for i, j in enumerate(which)
        ]  # fmt: skip
        for row, mine in runs:
            ids[row, : len(mine)] = tree.ids[mine]
            positions[row, : len(mine)] = tree.depths[mine]
            nodes[row, : len(mine)] = mine + offsets[n]
            tokens[row, : len(mine)] = True
            column[mine] = row * width + np.arange(len(mine))
        if sees is not None:
            for j in which:
                path = column[tree.paths[j]] - n * width
                sees[n][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
        found.append(_targets(tree, which, (whole or chosen)[n], column, n, normalize))
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
