"""The slot pool: delta rows resident on the device, least recently used first out.

Stored deltas are registered; only those in slots are resident. A request pins its slots for as long
as it runs, so that no other request can overwrite them; a caller may pin deltas for good. Knows
nothing of models.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput, Locked
from adapterdb.store.rows import RowRef

Loader = Callable[[RowRef, Tensor], None]


class SlotPool:
    """``rows (S, P)`` on one device. Thread-safe: rows may be loaded while a request computes.

    Args:
        slots: S.
        size: P.
        dtype: of the rows, as stored.
        device: where they lie.
        load: reads one row from the store into a slot ``(P,)``.
    """

    def __init__(
        self, slots: int, size: int, dtype: torch.dtype, device: torch.device, load: Loader
    ) -> None:
        self.rows = torch.zeros(slots, size, dtype=dtype, device=device)
        self.hits = self.misses = 0
        self._load = load
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._free = list(range(slots))
        self._lock = threading.RLock()

    @contextmanager
    def resident(self, wanted: Mapping[str, RowRef]) -> Iterator[dict[str, int]]:
        """Id to slot of these deltas, pinned inside the block.

        Args:
            wanted: delta id to where its row lies.

        Raises:
            InvalidInput: if they are more than there are slots.
            Locked: if pins of others leave too few slots.
        """
        slot_of = self.pin(wanted)
        try:
            yield slot_of
        finally:
            self.unpin(wanted)

    def pin(self, wanted: Mapping[str, RowRef]) -> dict[str, int]:
        """Make these deltas resident until ``unpin``; raises as ``resident`` does."""
        with self._lock:
            self._check(wanted)
            self._pins.update(wanted.keys())
            try:
                for delta_id, row in wanted.items():
                    self._touch(delta_id, row)
            except BaseException:
                self.unpin(wanted)
                raise
            return {delta_id: self._slot_of[delta_id] for delta_id in wanted}

    def unpin(self, delta_ids: Iterable[str]) -> None:
        """Take back one ``pin`` of each of these deltas."""
        with self._lock:
            self._pins.subtract(list(delta_ids))
            self._pins = +self._pins  # drops the zeros

    def prefetch(self, wanted: Mapping[str, RowRef]) -> int:
        """Make deltas resident, unpinned: they are there unless others need the room.

        Returns:
            How many had to be read.

        Raises:
            Corrupt: if a row fails its checks.
            Locked: as ``resident``.
        """
        with self._lock:
            before = self.misses
            for delta_id, row in wanted.items():
                self._touch(delta_id, row)
            return self.misses - before

    def forget(self, delta_ids: Iterable[str]) -> None:
        """Zero and free the slots of these deltas, wherever resident."""
        with self._lock:
            for delta_id in delta_ids:
                slot = self._slot_of.pop(delta_id, None)
                if slot is not None:
                    self._release(slot)

    @property
    def resident_ids(self) -> tuple[str, ...]:
        """Least recently used first."""
        with self._lock:
            return tuple(self._slot_of)

    @property
    def pinned(self) -> int:
        """How many deltas are pinned now."""
        return len(self._pins)

    def _check(self, wanted: Mapping[str, RowRef]) -> None:
        if len(wanted) > len(self.rows):
            raise InvalidInput(
                f"{len(wanted)} deltas at once, but there are {len(self.rows)} slots",
                hint="open the database with more slots, or ask with a smaller k",
            )

    def _touch(self, delta_id: str, row: RowRef) -> None:
        """Make a delta the most recently used, reading it if it is not resident."""
        if delta_id in self._slot_of:
            self.hits += 1
            self._slot_of.move_to_end(delta_id)
            return
        self.misses += 1
        slot = self._free_slot()
        try:
            self._load(row, self.rows[slot])
        except BaseException:
            self._release(slot)  # with nothing left of a row that failed its checks
            raise
        self._slot_of[delta_id] = slot

    def _release(self, slot: int) -> None:
        self.rows[slot] = 0
        self._free.append(slot)

    def _free_slot(self) -> int:
        if self._free:
            return self._free.pop()
        victim = next((i for i in self._slot_of if not self._pins[i]), None)
        if victim is None:
            raise Locked(
                "every slot is pinned, by running requests or for good",
                hint="ask again in a moment, unpin something, or open with more slots",
            )
        return self._slot_of.pop(victim)
