"""The slot pool: residency, eviction order, pins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapterdb.engine.slots import SlotPool
from adapterdb.errors import Corrupt, InvalidInput, Locked
from adapterdb.store.rows import RowRef


def refs(*names: str) -> dict[str, RowRef]:
    """Where these rows lie: in files named like them."""
    return {name: RowRef(name, 0, 16, "float32", "", 1.0) for name in names}


ROWS = {name: torch.full((4,), float(i)) for i, name in enumerate("abcdef")}


def pool(slots: int, loads: list[str] | None = None) -> SlotPool:
    """A pool over ROWS that notes what it loads."""

    def load(row: RowRef, slot: Tensor) -> None:
        if loads is not None:
            loads.append(row.file)
        slot.copy_(ROWS.get(row.file, torch.full((4,), 9.0)))
        if row.file == "bad":
            raise Corrupt("bad", code="sha_mismatch")

    return SlotPool(slots, 4, torch.float32, torch.device("cpu"), load)


def test_resident_rows_are_the_stored_rows() -> None:
    """Each slot named holds the row of its delta, and a repeated id gets one slot."""
    it = pool(3)
    with it.resident(refs("b", "e", "b")) as slot_of:
        assert {i: it.rows[s].tolist() for i, s in slot_of.items()} == {
            "b": [1.0] * 4,
            "e": [4.0] * 4,
        }


def test_least_recently_used_goes_first() -> None:
    """A full pool evicts the delta used longest ago, and loads nothing that is resident."""
    loads: list[str] = []
    it = pool(2, loads)
    for ids in "abacab":
        with it.resident(refs(*ids)):
            pass
    assert loads == ["a", "b", "c", "b"]
    assert it.resident_ids == ("a", "b")


def test_pinned_rows_are_never_overwritten() -> None:
    """While a request holds its slots, another evicts around them or is told to wait."""
    it = pool(2)
    with it.resident(refs("a")) as first:
        with it.resident(refs("b")):
            pass
        with it.resident(refs("c")), pytest.raises(Locked), it.resident(refs("d")):
            pass
        assert it.rows[first["a"]].tolist() == [0.0] * 4
        assert "a" in it.resident_ids
    assert it.pinned == 0


def test_pins_return_after_an_error() -> None:
    """A load that fails leaves no pin behind and no half-filled slot."""
    it = pool(2)
    with pytest.raises(Corrupt), it.resident(refs("bad")):
        pass
    assert it.pinned == 0
    assert it.resident_ids == ()
    assert it.rows.abs().sum() == 0
    with it.resident(refs("a", "b")):
        assert it.pinned == 2


def test_more_deltas_than_slots_is_refused() -> None:
    """A request that can never fit is refused with the numbers."""
    with (
        pytest.raises(InvalidInput, match="3 deltas at once, but there are 2 slots"),
        pool(2).resident(refs("a", "b", "c")),
    ):
        pass


def test_forgotten_rows_are_zeroed() -> None:
    """Forgetting a delta frees its slot and leaves none of its numbers behind."""
    it = pool(2)
    with it.resident(refs("f")) as slot_of:
        slot = slot_of["f"]
    it.forget(["f", "never seen"])
    assert it.rows[slot].abs().sum() == 0
    assert it.resident_ids == ()
