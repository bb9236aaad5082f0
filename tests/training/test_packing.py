"""What sequences share is in a batch once, and the batch still says the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from adapterdb.training.objective import TokenSequence
from adapterdb.training.packing import Packed, Tree, batches, pack

SHARED = tuple(range(10, 40))
PASSAGE = [TokenSequence((*SHARED, 1, 2, 3), 31), TokenSequence((*SHARED, 1, 5), 31)]
OTHER = [TokenSequence((7, 8, 9)), TokenSequence((7, 8, 6, 5))]


def packed(data: Sequence[Sequence[TokenSequence]], widest_tree: int) -> Packed:
    """A batch of all sequences."""
    trees = [Tree(sequences) for sequences in data]
    sizes = [len(tree.ids) for tree in trees]
    return pack(
        trees, [range(len(sequences)) for sequences in data],
        offsets=[sum(sizes[:n]) for n in range(len(sizes))], hidden_size=64,
        widest_tree=widest_tree, normalize="valid_tokens", device=torch.device("cpu"),
    )  # fmt: skip


def test_shared_beginnings_are_one_row() -> None:
    """Thirty shared tokens are there once; each node sees its ancestors, at its own depth."""
    batch = packed([PASSAGE, OTHER], 100)
    assert batch.is_tree
    assert batch.ids.shape == (2, 34)
    assert batch.ids[0].tolist() == [*SHARED, 1, 2, 3, 5]
    assert batch.positions[0].tolist() == [*range(33), 31]
    sees = batch.mask[0, 0]
    assert sees[33].nonzero()[:, 0].tolist() == [*range(31), 33]
    assert sees[32].nonzero()[:, 0].tolist() == list(range(33))
    assert batch.mask[1, 0].diagonal().all()  # attention over nothing is undefined
    assert batch.tokens.sum(-1).tolist() == [34, 5]


def test_a_model_that_reads_no_trees_gets_one_row_a_sequence() -> None:
    """With no tree, or one wider than allowed, rows are the sequences as they are."""
    for widest in (0, 33):
        batch = packed([PASSAGE, OTHER], widest)
        assert not batch.is_tree
        assert batch.ids.shape == (4, 33)
        assert batch.mask.sum(-1).tolist() == [33, 32, 3, 4]
        assert batch.ids[3, :4].tolist() == [7, 8, 6, 5]


def test_targets_are_the_same_in_both_forms() -> None:
    """Node, label, owner and share of every target agree; shares of a passage add up to 1."""
    found = []
    for widest in (0, 100):
        batch = packed([PASSAGE, OTHER], widest)
        nodes = batch.nodes.reshape(-1)[batch.places]
        columns = (nodes, batch.labels, batch.owners, batch.shares)
        found.append(sorted(zip(*(column.tolist() for column in columns), strict=True)))
        assert batch.sums(torch.ones(len(batch.labels)), batch.shares).tolist() == [1, 1]
    assert found[0] == found[1]
    # after 1 comes 2 in one sequence and 5 in the other; (7, 8) is said twice
    assert (30, 2, 0, np.float32(1 / 3)) in found[0]
    assert (30, 5, 0, np.float32(1 / 3)) in found[0]
    assert (34, 8, 1, np.float32(2 / 5)) in found[0]


def test_batches_hold_items_of_like_length() -> None:
    """Each item is in one batch, none exceeds the limit, long and short ones don't meet."""
    tokens = [100, 10, 90, 12, 11, 500]
    found = batches(tokens, 200)
    assert sorted(i for batch in found for i in batch) == list(range(6))
    assert [sorted(batch) for batch in found] == [[1, 3, 4], [0, 2], [5]]


def test_what_shares_little_goes_into_rows_of_its_own() -> None:
    """Two long texts of two questions each, and a short sequence, make two rows of one passage."""
    texts = [tuple(range(first, first + 200)) for first in (100, 300)]
    data = [
        [TokenSequence((*text, q, 4)) for text in texts for q in (1, 2)] + [TokenSequence(SHARED)]
    ]
    batch = packed(data, 900)
    assert batch.is_tree
    assert batch.ids.shape == (2, 234)
    assert batch.tokens.sum(-1).tolist() == [234, 204]
    trees = [Tree(data[0])]
    nodes = batch.nodes[batch.tokens]
    assert sorted(nodes.tolist()) == list(range(len(trees[0].ids)))
    flat = packed(data, 0)
    assert sorted(zip(flat.labels.tolist(), flat.shares.tolist(), strict=True)) == sorted(
        zip(batch.labels.tolist(), batch.shares.tolist(), strict=True)
    )
