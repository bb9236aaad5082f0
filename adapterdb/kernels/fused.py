"""``add_lora`` with the Triton kernels, and its halves: shrink, expand. All differentiable.

    shrink(x, a)        h[b, t, j] = x[b, t] . a[j]
    expand(y, h, b)     y[b, t] + sum_j scale * weights[b, t, k] * h[b, t, j] * b[j]
    add                 both: where no gradient is wanted, and tokens are few, in one launch

j runs over the K*R bank rows that batch row b meets: R of each of its K slots, or, without slots,
all rows of bank entry b, of which each R in turn have one weight. Backward is the same kernels the
other way round and one more for the bank, and so differentiable as often as you like. Chooses
kernels and tiles; imports Triton only when called, since not every platform has it.
"""

# autograd's apply has no types
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from adapterdb.kernels import tiles
from adapterdb.kernels.products import Products
from adapterdb.kernels.segments import by_entry

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Bank(NamedTuple):
    """Which bank rows meet which batch rows.

    Attributes:
        slots: int64 ``(B, K)`` bank entries, -1 for none; None: entry b is for batch row b.
        k: slots, or weights, of a batch row.
        ranks: int ``(S,)``, rows of each entry that count; None for all.
    """

    slots: Tensor | None = None
    k: int = 1
    ranks: Tensor | None = None


def obstacle(p: Products) -> str | None:
    """Why Triton can't compute this, or None."""
    if p.x.dtype not in DTYPES or p.y.dtype not in DTYPES:
        return f"x is {p.x.dtype} and y {p.y.dtype}, not float32, bfloat16 or float16"
    if any(isinstance(t, Tensor) and t.device != p.x.device for t in p):
        return f"not all tensors are on {p.x.device}, where x is"
    try:
        from adapterdb.kernels import triton_lora
    except ImportError as error:
        return f"Triton can't be imported: {error}"
    if p.x.is_cuda and triton_lora.INTERPRETING:
        return "Triton was imported with TRITON_INTERPRET=1, and x is on a CUDA device"
    if not p.x.is_cuda and not triton_lora.INTERPRETING:
        return (
            f"x is on {p.x.device}; the kernels need CUDA, or TRITON_INTERPRET=1 in the"
            " environment before Triton is first imported"
        )
    return None


def pays(p: Products) -> bool:
    """Whether the tensors are on a CUDA device and Triton can take them."""
    if not p.x.is_cuda:
        return False
    reason = obstacle(p)
    if reason is not None:
        _tell(reason)
    return reason is None


@cache
def _tell(reason: str) -> None:
    """Once for each reason."""
    logger.warning("deltas act by plain torch, not by Triton: %s", reason)


def add(p: Products, one_launch: bool | None = None) -> Tensor:
    """``y`` plus the products. Shapes are as in ``add_lora``.

    Args:
        p: checked, and without an obstacle.
        one_launch: for few tokens without gradients; None leaves the choice to the shapes.
    """
    y, x, bank = p.y, p.x, Bank(p.slots, 1 if p.slots is None else p.slots.shape[1], p.ranks)
    if 0 in (y.numel(), p.a.shape[1], bank.k):
        return y.clone()
    if p.slots is None:  # each run of the batch is one long row
        y, x = (t.reshape(len(p.a), -1, t.shape[-1]) for t in (y, x))
    if p.differentiable:
        h = shrink(x, p.a, bank, p.a_scale)
        out = expand(y, h, p.b, bank, p.weights, p.scale, p.b_scale)
    else:
        out = _add(p._replace(y=y, x=x), bank, one_launch)
    return out.view(p.y.shape)


def shrink(x: Tensor, a: Tensor, bank: Bank, a_scale: Tensor | None = None) -> Tensor:
    """``h (B, T, K*R)`` float32. Differentiable in x and a.

    Args:
        x: ``(B, T, H1)``; a: ``(S, R, H1)``, or without slots ``(B, K*R, H1)``.
        bank: whose rows meet which tokens.
        a_scale: float32 ``(S, R)`` of an int8 ``a``.
    """
    return _Shrink.apply(x, a, bank, a_scale)  # type: ignore[no-any-return]


def expand(
    y: Tensor,
    h: Tensor,
    b: Tensor,
    bank: Bank,
    weights: Tensor | None,
    scale: float = 1.0,
    b_scale: Tensor | None = None,
) -> Tensor:
    """``y (B, T, H2)`` plus the weighted products. Differentiable in y, h, b and weights.

    Args:
        y: its dtype is the result's, and that of the products of many tokens.
        h: float32 ``(B, T, K*R)``; b: ``(S, R, H2)``, or without slots ``(B, K*R, H2)``.
        bank: whose rows meet which tokens.
        weights: ``(B, K)``, ``(B, T, K)``, or None for 1.
        scale: multiplies every product.
        b_scale: float32 ``(S, R)`` of an int8 ``b``.
    """
    given = (y, h, b, each_token(weights, h.shape[1]), bank, scale, b_scale, y.dtype)
    return _Expand.apply(*given)  # type: ignore[no-any-return]


def _add(p: Products, bank: Bank, one_launch: bool | None) -> Tensor:
    from adapterdb.kernels import launches

    rows, batch = rows_of(bank, p.a, p.x.shape[1]), len(p.x)
    y, x, a, b = p.y.contiguous(), p.x.contiguous(), _lined(p.a), _lined(p.b)
    weights = each_token(p.weights, rows.tokens)
    out = y if p.inplace else torch.empty_like(y)
    shape = (x.shape[-1], y.shape[-1], rows.met, batch * rows.tokens)
    if one_launch is None:
        one_launch = rows.tokens <= tiles.FEW_TOKENS and tiles.in_one_launch(*shape)
    if one_launch:
        scales = (_packed(p.a_scale), _packed(p.b_scale))
        tile = tiles.choose("fused", *shape)
        return launches.fused(out, y, x, a, b, rows, weights, p.scale, scales, tile)
    tile = _tile("shrink", x.shape[-1], rows, batch)
    planes = launches.shrink(x, a, rows, _packed(p.a_scale), tile)
    tile = _tile("expand", y.shape[-1], rows, batch)
    return launches.expand(out, y, planes, b, rows, weights, p.scale, _packed(p.b_scale), tile)


class _Shrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, bank: Bank, a_scale: Tensor | None) -> Tensor:
        from adapterdb.kernels import launches

        ctx.save_for_backward(x, a, a_scale)
        ctx.bank = bank
        rows = rows_of(bank, a, x.shape[1])
        tile = _tile("shrink", x.shape[-1], rows, len(x))
        planes = launches.shrink(x.contiguous(), _lined(a), rows, _packed(a_scale), tile)
        return planes[0] if len(planes) == 1 else planes.sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, a_scale = ctx.saved_tensors
        grad_x = grad_a = None
        if ctx.needs_input_grad[0]:
            grad_x = _Expand.apply(None, grad, a, None, ctx.bank, 1.0, a_scale, x.dtype)
        if ctx.needs_input_grad[1]:
            grad_a = _Outer.apply(grad, x, ctx.bank, a.shape, a.dtype)
        return grad_x, grad_a, None, None


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor | None, h: Tensor, b: Tensor, weights: Tensor | None, bank: Bank,
        scale: float, b_scale: Tensor | None, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        from adapterdb.kernels import launches

        ctx.save_for_backward(h, b, weights, b_scale)
        ctx.bank, ctx.scale = bank, scale
        rows = rows_of(bank, b, h.shape[1])
        out = h.new_empty((*h.shape[:2], b.shape[-1]), dtype=dtype)
        y = None if y is None else y.contiguous()
        planes = h.float().contiguous()[None]
        tile = _tile("expand", b.shape[-1], rows, len(h))
        b_scale = _packed(b_scale)
        return launches.expand(out, y, planes, _lined(b), rows, weights, scale, b_scale, tile)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, b, weights, b_scale = ctx.saved_tensors
        by_rows = _Shrink.apply(grad, b, ctx.bank, b_scale)  # of what multiplies each row of b
        gains: Tensor | float = ctx.scale
        if weights is not None:
            gains = (weights.float() * ctx.scale).repeat_interleave(h.shape[-1] // ctx.bank.k, -1)
        grad_h = grad_b = grad_w = None
        if ctx.needs_input_grad[1]:
            grad_h = by_rows * gains
        if ctx.needs_input_grad[2]:
            grad_b = _Outer.apply(h * gains, grad, ctx.bank, b.shape, b.dtype)
        if ctx.needs_input_grad[3]:
            parts = (h * by_rows).unflatten(-1, (ctx.bank.k, -1))
            grad_w = (parts.sum(-1) * ctx.scale).to(weights.dtype)
        grad_y = grad if ctx.needs_input_grad[0] else None
        return grad_y, grad_h, grad_b, grad_w, None, None, None, None


class _Outer(torch.autograd.Function):
    """Gradient of a bank ``(S, R, H)`` from ``left (B, T, K*R)`` and ``x (B, T, H)``."""

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, x: Tensor, bank: Bank, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        from adapterdb.kernels import launches

        ctx.save_for_backward(left, x)
        ctx.bank = bank
        out = x.new_empty(shape, dtype=dtype)
        rows, order = rows_of(bank, out, x.shape[1]), None
        if bank.slots is None:
            rows = rows._replace(per=rows.met)  # one entry, however many weights it has
        else:
            order = by_entry(bank.slots, shape[0])
        return launches.outer(out, left.contiguous(), x.contiguous(), rows, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, x = ctx.saved_tensors
        grad_left = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_left = _Shrink.apply(x, grad, ctx.bank, None)
        if ctx.needs_input_grad[1]:
            grad_x = _Expand.apply(None, left, grad, None, ctx.bank, 1.0, None, x.dtype)
        return grad_left, grad_x, None, None, None


def rows_of(bank: Bank, factor: Tensor, tokens: int) -> Any:
    """The ``launches.Rows`` of a bank ``factor (S, R, H)`` and T tokens in each batch row."""
    from adapterdb.kernels import launches

    count = factor.shape[1] * (1 if bank.slots is None else bank.k)
    slots = None if bank.slots is None else bank.slots.contiguous()
    return launches.Rows(slots, bank.ranks, tokens, count // bank.k, count)


def _tile(phase: Literal["shrink", "expand"], width: int, rows: Any, batch: int) -> tiles.Tile:
    """For few tokens of a batch row, or for many; ``width`` is H1 or H2."""
    if rows.tokens <= tiles.FEW_TOKENS:
        return tiles.choose(phase, width, width, rows.met, batch * rows.tokens)
    many: tiles.Phase = "shrink_tiles" if phase == "shrink" else "expand_tiles"
    return tiles.choose(many, width, width, rows.met, rows.tokens)


def each_token(weights: Tensor | None, tokens: int) -> Tensor | None:
    """``(B, T, K)``, without a copy."""
    if weights is None or weights.dim() == 3:
        return weights
    return weights[:, None].expand(-1, tokens, -1)


def _packed(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.float().contiguous()


def _lined(factor: Tensor) -> Tensor:
    """With contiguous rows, as the kernels read them."""
    return factor if factor.stride(-1) == 1 else factor.contiguous()
