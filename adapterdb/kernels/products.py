"""The arguments of ``add_lora`` as one record, checked once; every implementation takes it.

    add(products) -> y              computes it
    obstacle(products) -> reason    why an implementation can't, or None

``lora.py`` documents what the fields mean.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput


class Products(NamedTuple):
    """Low-rank products of ``x`` that are added to ``y``; see ``add_lora``."""

    y: Tensor
    x: Tensor
    a: Tensor
    b: Tensor
    slots: Tensor | None = None
    weights: Tensor | None = None
    scale: float = 1.0
    ranks: Tensor | None = None
    a_scale: Tensor | None = None
    b_scale: Tensor | None = None
    inplace: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens in a row are served by the same bank rows."""
        batch, tokens = self.x.shape[:2]
        return tokens if self.slots is not None else batch * tokens // max(1, len(self.a))

    @property
    def differentiable(self) -> bool:
        """Whether a gradient of the result may be asked for."""
        return torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in self
        )

    @property
    def writable(self) -> bool:
        """Whether the result may be written over y."""
        return self.inplace and self.y.is_contiguous() and not self.differentiable

    @property
    def live(self) -> Tensor | None:
        """bool ``(S, R)``: the rank rows that act; None means all of them."""
        if self.ranks is None:
            return None
        return torch.arange(self.a.shape[1], device=self.a.device) < self.ranks[:, None]


def check(p: Products) -> None:
    """InvalidInput, naming both sides, where shapes or dtypes don't fit each other."""
    batch, tokens = p.x.shape[:2]
    if p.x.dim() != 3 or p.a.dim() != 3 or p.b.dim() != 3 or p.a.shape[2] != p.x.shape[2]:
        raise _misfit(p)
    if p.y.shape != (batch, tokens, p.b.shape[2]):
        raise _misfit(p)
    if p.a.shape[:2] != p.b.shape[:2]:
        raise InvalidInput(f"a has (S, R) {tuple(p.a.shape[:2])}, b has {tuple(p.b.shape[:2])}")
    if p.ranks is not None and (p.ranks.shape != p.a.shape[:1] or p.ranks.dtype != torch.int64):
        raise InvalidInput(
            f"ranks {tuple(p.ranks.shape)} {p.ranks.dtype}: expected int64 ({len(p.a)},)"
        )
    _check_scale("a", p.a, p.a_scale)
    _check_scale("b", p.b, p.b_scale)
    if p.slots is not None:
        _check_slots(p, p.slots, batch, tokens)
    elif p.weights is not None:
        raise InvalidInput("weights need slots; without slots each bank row acts with weight 1")
    elif len(p.a) == 0 or batch % len(p.a):
        raise InvalidInput(f"{len(p.a)} bank rows can't serve equal runs of {batch} rows")


def _misfit(p: Products) -> InvalidInput:
    return InvalidInput(
        f"x {tuple(p.x.shape)}, y {tuple(p.y.shape)}, a {tuple(p.a.shape)}, b {tuple(p.b.shape)}:"
        " expected x (B, T, H1), y (B, T, H2), a (S, R, H1), b (S, R, H2)"
    )


def _check_scale(name: str, bank: Tensor, scale: Tensor | None) -> None:
    if scale is None:
        if bank.dtype == torch.int8:
            raise InvalidInput(
                f"{name} is int8 without {name}_scale",
                hint=f"give {name}_scale (S, R), as kernels.quantize makes it",
            )
    elif scale.shape != bank.shape[:2]:
        raise InvalidInput(
            f"{name}_scale {tuple(scale.shape)}: expected (S, R) {tuple(bank.shape[:2])}"
        )


def _check_slots(p: Products, slots: Tensor, batch: int, tokens: int) -> None:
    if slots.dim() != 2 or slots.shape[0] != batch or slots.dtype != torch.int64:
        raise InvalidInput(f"slots {tuple(slots.shape)} {slots.dtype}: expected int64 ({batch}, K)")
    allowed = (tuple(slots.shape), (batch, tokens, slots.shape[1]))
    if p.weights is not None and tuple(p.weights.shape) not in allowed:
        raise InvalidInput(
            f"weights {tuple(p.weights.shape)}: expected {allowed[0]} or {allowed[1]}"
        )
