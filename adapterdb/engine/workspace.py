"""The factors of one request: memory that is filled from the slot pool and used again.

Activating a mixture moves less than a megabyte, so what counts is the number of operations and
fresh pages. Buffers and views are made once for a batch size and a number of deltas; filling them
is one gather and two copies for each family of sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapterdb.adapted_model import Factors
from adapterdb.layout import DeltaLayout


class Workspace:
    """Buffers for B questions with K deltas each.

    Args:
        layout: of the rows.
        shape: (B, K).
        stored: dtype of the bank; used: dtype of the base model; device: of both.

    Attributes:
        factors: for each site ``a (B, K*R, H1)`` and ``b (B, K*R, H2)``, views of the buffers.
    """

    def __init__(
        self,
        layout: DeltaLayout,
        shape: tuple[int, int],
        stored: torch.dtype,
        used: torch.dtype,
        device: torch.device,
    ) -> None:
        batch, k = shape
        self._rows = torch.empty(batch * k, layout.size, dtype=stored, device=device)
        rows = self._rows.view(batch, k, layout.size)
        factors: list[tuple[Tensor, Tensor]] = [(rows, rows)] * len(layout.sites)
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._weighted: list[Tensor] = []
        self._all_b: list[Tensor] = []
        for family in layout.families:
            # from (B, K, n, slices, R, H), to one tensor (B, K*R, H) for each member
            a, b = (stack.permute(2, 3, 0, 1, 4, 5) for stack in layout.stacked(rows, family))
            a_out, b_out = (torch.empty(x.shape, dtype=used, device=device) for x in (a, b))
            self._copies += [(a, a_out), (b, b_out)]
            self._weighted.append(min(a_out, b_out, key=torch.numel))
            self._all_b.append(b_out)
            members = (x.flatten(3, 4).flatten(0, 1).unbind() for x in (a_out, b_out))
            for index, pair in zip(family.indices, zip(*members, strict=True), strict=True):
                factors[index] = pair
        self.factors: Factors = factors

    def fill(
        self, bank: Tensor, slots: Tensor, gain: Tensor, *, through_b: bool = False
    ) -> Factors:
        """Put the rows ``slots (B, K)`` of ``bank (S, P)`` into the factors, times ``gain (B, K)``.

        A product B A is weighted through its smaller factor, or ``through_b``: then A stays as it
        is, for gates that look at its output.
        """
        torch.index_select(bank, 0, slots.flatten(), out=self._rows)
        for source, out in self._copies:
            out.copy_(source)
        for out in self._all_b if through_b else self._weighted:
            out.mul_(gain[..., None, None])
        return self.factors

    @property
    def size_bytes(self) -> int:
        """Of all buffers."""
        return sum(t.nbytes for t in (self._rows, *(out for _, out in self._copies)))

    def clear(self) -> None:
        """Leave nothing of what was filled in."""
        for tensor in (self._rows, *(out for _, out in self._copies)):
            tensor.zero_()
