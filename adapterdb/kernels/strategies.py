"""MeteoRA's forward strategies (arXiv 2405.13053), so that others can be compared with them.

    loop       for each slot that is met: pick its tokens, multiply, put the products back
    gathered   for each pair of token and delta: a copy of its A and B, then two batched products

Both look only at pairs that act: a slot of -1, or a weight of exactly 0 (beyond a gate's top k),
costs nothing, unless the weights want a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.kernels.products import Products


class _Pairs(NamedTuple):
    """Which delta acts on which token, and how strongly: three tensors ``(n,)``."""

    tokens: Tensor
    slots: Tensor
    weights: Tensor


def add_loop(p: Products) -> Tensor:
    """One slot after the other."""
    y, x = p.y.reshape(-1, p.y.shape[-1]).clone(), p.x.reshape(-1, p.x.shape[-1])
    pairs = _pairs(p)
    for slot in sorted(set(pairs.slots.tolist())):
        chosen = pairs.slots == slot
        tokens = pairs.tokens[chosen]
        rank = p.a.shape[1] if p.ranks is None else int(p.ranks[slot])
        a = _numbers(p.a[slot, :rank], _at(p.a_scale, slot, rank), x.dtype)
        b = _numbers(p.b[slot, :rank], _at(p.b_scale, slot, rank), x.dtype)
        out = (x[tokens] @ a.mT @ b) * pairs.weights[chosen, None].to(x.dtype)
        y = y.index_add(0, tokens, out.to(y.dtype))
    return y.view(p.y.shape)


def add_gathered(p: Products) -> Tensor:
    """All pairs of token and delta at once."""
    y, x = p.y.reshape(-1, p.y.shape[-1]), p.x.reshape(-1, p.x.shape[-1])
    pairs = _pairs(p)
    a, b = (
        _numbers(bank[pairs.slots], None if scale is None else scale[pairs.slots], x.dtype)
        for bank, scale in ((p.a, p.a_scale), (p.b, p.b_scale))
    )
    if p.live is not None:
        dead = ~p.live[pairs.slots, :, None]
        a, b = a.masked_fill(dead, 0), b.masked_fill(dead, 0)
    out = torch.bmm(torch.bmm(x[pairs.tokens, None], a.mT), b)[:, 0]
    out = out * pairs.weights[:, None].to(x.dtype)
    return y.index_add(0, pairs.tokens, out.to(y.dtype)).view(p.y.shape)


def _pairs(p: Products) -> _Pairs:
    """In order of tokens."""
    batch, tokens = p.x.shape[:2]
    slots = p.slots
    if slots is None:
        aligned = torch.arange(len(p.a), device=p.x.device)
        slots = aligned.repeat_interleave(batch // len(p.a))[:, None]
    shape = (batch, tokens, slots.shape[1])
    slots = slots[:, None].expand(shape)
    acts = slots >= 0
    weights = torch.full(shape, p.scale, device=p.x.device)
    if p.weights is not None:
        weights = (p.weights if p.weights.dim() == 3 else p.weights[:, None]) * weights
        if not p.weights.requires_grad:
            acts = acts & (weights != 0)
    where = acts.nonzero(as_tuple=True)
    return _Pairs(where[0] * tokens + where[1], slots[where], weights[where])


def _numbers(rows: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Bank rows ``(..., R, H)`` as numbers of a dtype, dequantised where they have scales."""
    return rows.to(dtype) if scale is None else (rows * scale[..., None]).to(dtype)


def _at(scale: Tensor | None, slot: int, rank: int) -> Tensor | None:
    return None if scale is None else scale[slot, :rank]
