"""Rows of a bank move as torch's optimizers move a parameter each."""

from __future__ import annotations

import pytest
import torch

from adapterdb.training.optimizer import RowAdamW, RowSGD


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_each_row_moves_as_its_own_torch_optimizer(kind: str) -> None:
    """Rows that sit out some steps end where torch ends after theirs alone."""
    torch.manual_seed(0)
    bank = torch.randn(3, 7)
    single = [row.clone().requires_grad_() for row in bank]
    theirs: list[torch.optim.Optimizer]
    ours: RowAdamW | RowSGD
    if kind == "adamw":
        theirs = [torch.optim.AdamW([row], lr=0.1, weight_decay=0.02) for row in single]
        ours = RowAdamW(bank, 0.1, 0.02)
    else:
        theirs = [torch.optim.SGD([row], lr=0.1) for row in single]
        ours = RowSGD(bank, 0.1)
    for active in ([1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]):
        gradient = torch.randn(3, 7)
        ours.step(gradient, torch.tensor(active, dtype=torch.bool))
        for row, optimizer, g, on in zip(single, theirs, gradient, active, strict=True):
            row.grad = g.clone()
            if on:
                optimizer.step()
    torch.testing.assert_close(bank, torch.stack([row.detach() for row in single]))
