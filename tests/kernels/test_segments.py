"""Tiles of tokens whose batch rows have one set of slots."""

from __future__ import annotations

import pytest
import torch

from adapterdb.kernels.segments import Segments, by_entry

SLOTS = {
    "one set": [[1, 2]] * 5,
    "own sets": [[0, 1], [1, 0], [2, -1], [-1, -1], [3, 3]],
    "scattered": [[4, 5], [0, 1], [4, 5], [0, 1], [4, 5]],
    "one row": [[3, 1]],
}


@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize(("tokens", "block"), [(1, 16), (5, 16), (16, 16), (21, 16)])
def test_every_token_is_in_one_tile_of_its_set(name: str, tokens: int, block: int) -> None:
    """Tiles cover all tokens once, none is larger than the block, and none mixes sets."""
    slots = torch.tensor(SLOTS[name])
    found = Segments.of(slots, tokens, block)
    seen = []
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        assert start <= end <= start + block
        rows = found.order[torch.arange(start, end) // tokens]
        assert len({tuple(slots[row].tolist()) for row in rows}) <= 1
        seen += [
            int(row) * tokens + p % tokens for row, p in zip(rows, range(start, end), strict=True)
        ]
    assert sorted(seen) == list(range(len(slots) * tokens))


def test_equal_sets_share_tiles() -> None:
    """Five rows of 3 tokens with one set fill one tile of 16; the other tiles are empty."""
    found = Segments.of(torch.tensor(SLOTS["one set"]), 3, 16)
    assert (found.ends - found.starts).tolist() == [15, 0, 0, 0, 0]


def test_slots_changed_in_place_are_sorted_again() -> None:
    """The tiles that are remembered belong to the slots' present numbers."""
    slots = torch.tensor(SLOTS["one set"])
    first = Segments.of(slots, 3, 16)
    assert Segments.of(slots, 3, 16) is first
    slots[0] = 7
    assert (Segments.of(slots, 3, 16).ends - first.starts).tolist() != [15, 0, 0, 0, 0]


def test_slots_made_under_inference_mode_work() -> None:
    """Such tensors don't tell whether they changed, so nothing is remembered of them."""
    with torch.inference_mode():
        slots = torch.tensor(SLOTS["scattered"])
        first = Segments.of(slots, 3, 16)
        slots[:] = 1
        assert not torch.equal(Segments.of(slots, 3, 16).ends, first.ends)


def test_places_by_entry() -> None:
    """Each entry's places in the slots, whatever their order; -1 belongs to no entry."""
    slots = torch.tensor([[2, 0], [-1, 2], [0, 2]])
    pairs, bounds = by_entry(slots, 4)
    flat = slots.flatten()
    for entry in range(4):
        places = pairs[bounds[entry] : bounds[entry + 1]]
        assert sorted(places.tolist()) == (flat == entry).nonzero()[:, 0].tolist()
