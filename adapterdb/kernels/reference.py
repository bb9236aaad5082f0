"""``add_lora`` in plain torch: written to be read, and fast enough to be the CPU path.

Both forms are two batched matrix products; whatever multiplies a product (weight, scale, the scales
of int8 rows) multiplies the R numbers between them. Gathering copies ``B * K * R * (H1 + H2)``
numbers, so a request gathers once and then uses the aligned form at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapterdb.kernels.products import Products


def add(p: Products) -> Tensor:
    """``y`` plus the products; differentiable in every float argument, twice."""
    if p.slots is None:
        live = None if p.live is None else p.live[..., None]
        a, b = (t if live is None else t.masked_fill(~live, 0) for t in (p.a, p.b))
        return _add_aligned(p, a, b, _gain(p), p.scale)
    return _add_aligned(p, *gather(p, p.slots))


def gather(p: Products, slots: Tensor) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """The bank rows of each batch row, as arguments of the aligned form.

    Args:
        p: its bank, weights and ranks are used.
        slots: ``(B, K)``.

    Returns:
        a ``(B, K*R, H1)`` and b ``(B, K*R, H2)``, zero where nothing acts; their gains
        ``(B, 1 or T, K*R)`` or None, and a factor of all.
    """
    index, live = slots.clamp(min=0), (slots >= 0)[..., None]
    if p.live is not None:
        live = live & p.live[index]
    live = live.expand(*slots.shape, p.a.shape[1])
    a, b = (bank[index].masked_fill(~live[..., None], 0).flatten(1, 2) for bank in (p.a, p.b))
    gain = _gain(p)
    if gain is not None:
        gain = gain[:, 0][index]  # (B, K, R)
    if p.weights is not None:
        weights = p.weights if p.weights.dim() == 3 else p.weights[:, None]
        each = weights[..., None].expand(*weights.shape, p.a.shape[1])
        gain = each if gain is None else each * gain[:, None]
    elif gain is not None:
        gain = gain[:, None]
    return a, b, None if gain is None else gain.flatten(-2), p.scale


def _gain(p: Products) -> Tensor | None:
    """``(S, 1, R)``: what the dequantisation of a and of b does to a product of int8 rows."""
    scales = [scale for scale in (p.a_scale, p.b_scale) if scale is not None]
    if not scales:
        return None
    gain = scales[0] if len(scales) == 1 else scales[0] * scales[1]
    gain = gain if p.live is None else gain.masked_fill(~p.live, 0)
    return gain[:, None]


def _add_aligned(p: Products, a: Tensor, b: Tensor, gain: Tensor | None, scale: float) -> Tensor:
    """Bank row g serves the g-th of S equal runs of the batch.

    Args:
        p: y and x.
        a: ``(S, C, H1)``; b: ``(S, C, H2)``; S divides B.
        gain: ``(S, 1 or T', C)``; scale: both multiply the C numbers between the products.
    """
    runs = (len(a), -1)
    x, y = p.x.reshape(*runs, p.x.shape[-1]), p.y.reshape(*runs, p.y.shape[-1])
    h = torch.bmm(x, a.to(x.dtype).mT)
    if gain is not None:
        h = h * (gain * scale).to(h.dtype)
        scale = 1.0
    return add_expanded(y, h, b, scale, p.writable).reshape(p.y.shape)


def add_expanded(
    y: Tensor, h: Tensor, b: Tensor, scale: float = 1.0, inplace: bool = False
) -> Tensor:
    """``y (S, T', H2) + scale * h (S, T', C) @ b (S, C, H2)``, in the dtype of y."""
    b = b.to(h.dtype)
    if y.dtype != h.dtype:
        return y + (torch.bmm(h, b) * scale).to(y.dtype)
    return (y.baddbmm_ if inplace else y.baddbmm)(h, b, alpha=scale)
