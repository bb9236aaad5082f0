"""``add_lora`` in plain torch: written to be read, and fast enough to be the CPU path.

Both forms are two batched matrix products. Gathering copies ``B * K * R * (H1 + H2)`` numbers, so a
request gathers once (``gather``) and then uses the aligned form at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_aligned(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Bank row g serves the g-th of S equal runs of the batch.

    Args:
        y: ``(B, T, H2)``; x: ``(B, T, H1)``; a: ``(S, R, H1)``; b: ``(S, R, H2)``; S divides B.
    """
    rows = a.shape[0]
    runs = x.reshape(rows, -1, x.shape[-1])
    h = torch.bmm(runs, a.to(x.dtype).mT)
    if scale != 1.0:
        h = h * scale
    out = torch.bmm(h, b.to(x.dtype))
    return y + out.reshape(y.shape).to(y.dtype)


def add_gathered(
    y: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    slots: Tensor,
    weights: Tensor | None,
    scale: float,
) -> Tensor:
    """Each batch row has its own K bank rows, with weights per sequence or per token."""
    if weights is None or weights.dim() == 2:
        return add_aligned(y, x, *gather(a, b, slots, weights, scale), 1.0)
    a_rows, b_rows = gather(a, b, slots, None, scale)
    h = torch.bmm(x, a_rows.to(x.dtype).mT)
    h = h * weights.to(x.dtype).repeat_interleave(a.shape[1], dim=-1)
    return y + torch.bmm(h, b_rows.to(x.dtype)).to(y.dtype)


def gather(
    a: Tensor, b: Tensor, slots: Tensor, weights: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """``a (B, K*R, H1)`` and ``b (B, K*R, H2)`` of the slots; weight, scale and "none" are in b."""
    batch, k = slots.shape
    index = slots.clamp(min=0)
    gain = (slots >= 0).to(b.dtype) * scale
    if weights is not None:
        gain = gain * weights.to(b.dtype)
    b_rows = b[index] * gain[..., None, None]
    return (
        a[index].reshape(batch, k * a.shape[1], a.shape[2]),
        b_rows.reshape(batch, k * b.shape[1], b.shape[2]),
    )
