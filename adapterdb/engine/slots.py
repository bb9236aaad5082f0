"""The slot pool: delta rows resident on the device, least recently used first out.

Stored deltas are registered; only those in slots are resident. A request pins its slots for as long
as it runs, so that no other request can overwrite them. Knows nothing of models.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput, Locked

Loader = Callable[[Sequence[str]], list[Tensor]]


class SlotPool:
    """``rows (S, P)`` on one device. Not thread-safe: the runtime holds a lock.

    Args:
        slots: S.
        size: P.
        dtype: of the rows, as stored.
        device: where they lie.
        load: delta ids to rows ``(P,)`` from the store.
    """

    def __init__(
        self, slots: int, size: int, dtype: torch.dtype, device: torch.device, load: Loader
    ) -> None:
        self.rows = torch.zeros(slots, size, dtype=dtype, device=device)
        self.hits = self.misses = 0
        self._load = load
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()

    @contextmanager
    def resident(self, delta_ids: Sequence[str]) -> Iterator[dict[str, int]]:
        """Id to slot of these deltas, pinned inside the block.

        Raises:
            InvalidInput: if they are more than there are slots.
            Locked: if pins of other requests leave too few slots.
        """
        wanted = list(dict.fromkeys(delta_ids))
        if len(wanted) > len(self.rows):
            raise InvalidInput(
                f"{len(wanted)} deltas at once, but there are {len(self.rows)} slots",
                hint="open the database with more slots, or ask with a smaller k",
            )
        self._pins.update(wanted)
        try:
            self._fill([i for i in wanted if i not in self._slot_of])
            for delta_id in wanted:
                self._slot_of.move_to_end(delta_id)
            yield {delta_id: self._slot_of[delta_id] for delta_id in wanted}
        finally:
            self._pins.subtract(wanted)
            self._pins += Counter()  # drops the zeros

    def forget(self, delta_ids: Sequence[str]) -> None:
        """Zero and free the slots of these deltas, wherever resident."""
        for delta_id in delta_ids:
            slot = self._slot_of.pop(delta_id, None)
            if slot is not None:
                self.rows[slot] = 0

    @property
    def resident_ids(self) -> tuple[str, ...]:
        """Least recently used first."""
        return tuple(self._slot_of)

    @property
    def pinned(self) -> int:
        """How many deltas are pinned now."""
        return len(self._pins)

    def _fill(self, missing: Sequence[str]) -> None:
        self.misses += len(missing)
        for delta_id, row in zip(missing, self._load(missing) if missing else [], strict=True):
            slot = self._free_slot()
            self.rows[slot].copy_(row)
            self._slot_of[delta_id] = slot

    def _free_slot(self) -> int:
        if len(self._slot_of) < len(self.rows):
            return min(set(range(len(self.rows))) - set(self._slot_of.values()))
        victim = next((i for i in self._slot_of if not self._pins[i]), None)
        if victim is None:
            raise Locked("every slot is pinned by a running request", hint="ask again in a moment")
        return self._slot_of.pop(victim)
