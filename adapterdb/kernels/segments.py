"""Batch rows in the order of their slots, so that tiles of tokens can share a set of deltas.

Made of device operations only, without a wait for the host: the number of tiles is the largest
that could be needed, and those beyond the last are empty. Knows nothing of products.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

MOST_ROWS = 1024  # every row is compared with every other


class Segments(NamedTuple):
    """Tiles over the tokens of a batch whose rows are sorted by their sets of slots.

    Attributes:
        order: int64 ``(B,)``, batch rows with equal sets side by side.
        starts: int64 ``(N,)``, each tile's first place in the sorted tokens: the one at place p is
            token ``p % T`` of batch row ``order[p // T]``.
        ends: int64 ``(N,)``, one past each tile's last place; equal to the start in empty tiles.
    """

    order: Tensor
    starts: Tensor
    ends: Tensor

    @classmethod
    def of(cls, slots: Tensor, tokens: int, block: int) -> Segments:
        """The tiles of at most ``block`` tokens of a batch with ``tokens`` in each row.

        Args:
            slots: int64 ``(B, K)``; rows are together if they are equal in every column.
        """
        known = _last.get(slots, tokens, block)
        return known or _last.put(slots, tokens, block, _sort(slots, tokens, block))


def by_entry(slots: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """Places in ``slots.flatten()`` sorted by bank entry, and ``(entries + 1,)`` bounds of each."""
    flat = slots.flatten()
    pairs = flat.argsort(stable=True)
    edges = torch.arange(entries + 1, device=slots.device)
    return pairs, torch.searchsorted(flat[pairs], edges)


def _sort(slots: Tensor, tokens: int, block: int) -> Segments:
    batch = slots.shape[0]
    rows = torch.arange(batch, device=slots.device)
    same = (slots[:, None] == slots[None]).all(-1)
    leader = same.to(torch.uint8).argmax(-1)  # the first row with this set
    order = leader.argsort(stable=True)
    sizes = torch.zeros_like(rows).scatter_add(0, leader, torch.ones_like(rows)) * tokens
    needed = (sizes + block - 1) // block
    last = needed.cumsum(0)
    tile = torch.arange(batch * -(-tokens // block), device=slots.device)
    group = torch.searchsorted(last, tile, right=True).clamp(max=batch - 1)
    begin, end = (sizes.cumsum(0) - sizes)[group], sizes.cumsum(0)[group]
    start = torch.minimum(begin + (tile - (last - needed)[group]) * block, end)
    return Segments(order, start, torch.minimum(start + block, end))


class _Last:
    """The tiles made last: the sites of a forward pass ask with the same slots one after another.

    Kept only while the slots live unchanged, and never for a CUDA graph: its replays read slots
    that were written after the capture.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Tensor], tuple[int, int, int], Segments] | None = None

    def get(self, slots: Tensor, tokens: int, block: int) -> Segments | None:
        known = self._known
        if known is None or known[0]() is not slots or _untold(slots):
            return None
        return known[2] if known[1] == (slots._version, tokens, block) else None

    def put(self, slots: Tensor, tokens: int, block: int, found: Segments) -> Segments:
        if not _untold(slots):
            self._known = weakref.ref(slots), (slots._version, tokens, block), found
        return found


def _untold(slots: Tensor) -> bool:
    """Whether a later change of the slots could go unnoticed."""
    return slots.is_inference() or (slots.is_cuda and torch.cuda.is_current_stream_capturing())


_last = _Last()
