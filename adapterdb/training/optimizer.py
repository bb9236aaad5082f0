"""The inner rules: AdamW and plain SGD over the rows of a bank, each row by itself."""

from __future__ import annotations

import torch
from torch import Tensor


class RowAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) where every row counts its own steps.

    Args:
        bank: ``(N, P)`` float32, updated in place.
        lr, weight_decay: as in torch; betas 0.9 and 0.999, eps 1e-8.
    """

    def __init__(self, bank: Tensor, lr: float, weight_decay: float) -> None:
        self.bank, self.lr, self.weight_decay = bank, lr, weight_decay
        self.mean = torch.zeros_like(bank)
        self.square = torch.zeros_like(bank)
        self.steps = torch.zeros(len(bank), 1, device=bank.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """Update the rows where ``active (N,)`` is true by theirs of ``gradient (N, P)``.

        The others keep their state.
        """
        if active.all():
            self._update(self.bank, self.mean, self.square, self.steps, gradient)
            return
        which = active.nonzero().squeeze(1)
        bank, mean, square = self.bank[which], self.mean[which], self.square[which]
        steps = self.steps[which]
        self._update(bank, mean, square, steps, gradient[which])
        self.bank[which], self.mean[which], self.square[which] = bank, mean, square
        self.steps[which] = steps

    def _update(self, bank: Tensor, mean: Tensor, square: Tensor, steps: Tensor, g: Tensor) -> None:
        steps += 1
        mean.lerp_(g, 0.1)
        square.mul_(0.999).addcmul_(g, g, value=0.001)
        root = (square / (1 - 0.999**steps)).sqrt_().add_(1e-8)
        bank.mul_(1 - self.lr * self.weight_decay)
        bank.addcdiv_(mean / (1 - 0.9**steps), root, value=-self.lr)


class RowSGD:
    """Gradient descent without momentum or decay.

    Args:
        bank: ``(N, P)`` float32, updated in place.
        lr: of every step.
    """

    def __init__(self, bank: Tensor, lr: float) -> None:
        self.bank, self.lr = bank, lr

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """Update the rows where ``active (N,)`` is true by theirs of ``gradient (N, P)``."""
        self.bank.addcmul_(gradient, active[:, None].to(gradient.dtype), value=-self.lr)
