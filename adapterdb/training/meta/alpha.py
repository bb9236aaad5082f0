"""Learned step sizes of the inner step (Meta-SGD's alpha, as Meta-PG ties it).

tie    one number for every A and every B          full   one for every number of a row
same   one for all                                 fix    as it begins, not learned
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from adapterdb.errors import InvalidInput
from adapterdb.layout import DeltaLayout

AlphaMode = Literal["tie", "full", "same", "fix"]
AlphaForm = Literal["plain", "log"]


class StepSizes(nn.Module):
    """Step sizes of a layout's rows, with as many parameters as ``mode`` has numbers.

    Args:
        layout: of the rows.
        row: ``(P,)`` where they begin; averaged over the numbers that are tied.
        mode: see the module's text.
        form: what is learned: alpha as it is (it may change its sign), or its logarithm.

    Raises:
        InvalidInput: if the logarithm of a number that isn't positive is wanted.
    """

    def __init__(
        self, layout: DeltaLayout, row: Tensor, mode: AlphaMode, form: AlphaForm = "plain"
    ) -> None:
        super().__init__()
        self._log = form == "log" and mode != "fix"
        if self._log and bool((row <= 0).any()):
            raise InvalidInput(
                f"alpha begins at {float(row.min()):g} somewhere; its logarithm needs it positive",
                hint="use alpha_form = 'plain'",
            )
        owners = _owners(layout, mode).to(row.device)
        n = int(owners.max()) + 1
        sums = torch.zeros(n, dtype=torch.float64, device=row.device)
        sums.index_add_(0, owners, row.double())
        values = (sums / torch.bincount(owners, minlength=n)).to(row.dtype)
        values = values.log() if self._log else values
        self.owners = nn.Buffer(owners, persistent=False)
        if mode == "fix":
            self.values: Tensor = nn.Buffer(values)
        else:
            self.values = nn.Parameter(values)

    def forward(self) -> Tensor:
        """The step size of every number of a row, ``(P,)``, positive where it is a logarithm."""
        return (self.values.exp() if self._log else self.values)[self.owners]


def _owners(layout: DeltaLayout, mode: AlphaMode) -> Tensor:
    """For every number of a row, which step size is its own: int64 ``(P,)``."""
    if mode in ("full", "fix"):
        return torch.arange(layout.size)
    owners = torch.zeros(layout.size, dtype=torch.int64)
    if mode == "tie":
        for i in range(len(layout.sites)):
            layout.a(owners, i).fill_(2 * i)
            layout.b(owners, i).fill_(2 * i + 1)
    return owners
