"""Grids and tile sizes of the Triton kernels: one function a kernel, on tensors, no autograd.

Shapes are checked and strides made fit by ``fused``, whose file this is the lower half of. Imported
only where Triton is to run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb.kernels import tiles, triton_lora
from adapterdb.kernels.segments import MOST_ROWS, Segments
from adapterdb.kernels.tiles import power_of_2


class Rows(NamedTuple):
    """Which bank rows meet which tokens.

    Attributes:
        slots: int64 ``(B, K)``, -1 for none; None: bank entry b serves batch row b.
        ranks: int ``(S,)``, rows of an entry that count; None for all.
        tokens: T, per batch row.
        per: bank rows of one slot (and of one weight).
        met: K * per, bank rows that a token meets.
    """

    slots: Tensor | None
    ranks: Tensor | None
    tokens: int
    per: int
    met: int


def fused(
    out: Tensor,
    y: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    rows: Rows,
    weights: Tensor | None,
    gain: float,
    scales: tuple[Tensor | None, Tensor | None],
    tile: tiles.Tile,
) -> Tensor:
    """``y (B, T, H2)`` plus the products, one launch; arguments as in ``shrink`` and ``expand``."""
    h1, h2 = x.shape[-1], y.shape[-1]
    block_n = min(tile.block_n, power_of_2(h2))
    tiles_n = _cdiv(h2, block_n)
    with _on(x):
        triton_lora.fused[(y.shape[0] * y.shape[1] * tiles_n,)](
            out, y, x, a, b, rows.slots, rows.ranks, weights, *scales, gain, rows.tokens,
            rows.met, rows.per, h1, h2, tiles_n, a.stride(0), a.stride(1), b.stride(0),
            b.stride(1), *_strides(weights), a.shape[1],
            BLOCK_R=block_rows(rows.met, tile), BLOCK_N=block_n,
            BLOCK_K=min(tile.block_k, power_of_2(h1)), num_warps=tile.warps,
        )  # fmt: skip
    return out


def shrink(x: Tensor, a: Tensor, rows: Rows, a_scale: Tensor | None, tile: tiles.Tile) -> Tensor:
    """float32 planes ``(SPLIT, B, T, met)`` whose sum is h.

    Args:
        x: ``(B, T, H1)`` contiguous.
        a: ``(S, R, H1)``, last dimension contiguous; int8 with ``a_scale``, else any float.
        rows: which rows of a.
        a_scale: float32 ``(S, R)``, one factor for each row of a.
        tile: block_m 1 for sums of products, 16 or more for dots.
    """
    h1 = x.shape[-1]
    block_k = max(16, min(tile.block_k, power_of_2(h1)))
    chunk = _cdiv(_cdiv(h1, tile.split), block_k) * block_k
    splits = _cdiv(h1, chunk)
    planes = x.new_empty((splits, *x.shape[:2], rows.met), dtype=torch.float32)
    block_r, dot = block_rows(rows.met, tile), triton_lora.dot_type(x.dtype)
    found, programs = _segments(x, rows, tile)
    with _on(x):
        triton_lora.shrink[(programs, splits, _cdiv(rows.met, block_r))](
            planes, x, a, rows.slots, rows.ranks, a_scale, *found, rows.tokens, rows.met,
            rows.per, h1, chunk, planes.stride(0), a.stride(0), a.stride(1), a.shape[1],
            DOT=dot, BLOCK_M=tile.block_m, BLOCK_R=block_r, BLOCK_K=block_k,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return planes


def expand(
    out: Tensor,
    y: Tensor | None,
    planes: Tensor,
    b: Tensor,
    rows: Rows,
    weights: Tensor | None,
    gain: float,
    b_scale: Tensor | None,
    tile: tiles.Tile,
) -> Tensor:
    """``out``, with ``y``, or zeros, plus the weighted rows of ``b`` in it.

    Args:
        out: ``(B, T, H2)`` contiguous, may be ``y``; dots are in its dtype.
        y: contiguous, or None.
        planes: float32 ``(SPLIT, B, T, met)`` contiguous.
        b: ``(S, R, H2)``, last dimension contiguous; int8 with ``b_scale``, else any float.
        rows: which rows of b.
        weights: ``(B, T, K)`` of any strides, or None for 1.
        gain: multiplies every product.
        b_scale: float32 ``(S, R)``.
        tile: as in ``shrink``.
    """
    h2 = b.shape[-1]
    block_n = max(16, min(tile.block_n, power_of_2(h2)))
    tiles_n = _cdiv(h2, block_n)
    block_r, dot = block_rows(rows.met, tile), triton_lora.dot_type(out.dtype)
    found, programs = _segments(planes[0], rows, tile)
    with _on(planes):
        triton_lora.expand[(programs * tiles_n,)](
            out, y, planes, b, rows.slots, rows.ranks, weights, b_scale, *found, gain,
            rows.tokens, rows.met, rows.per, h2, tiles_n, planes.shape[0], planes.stride(0),
            b.stride(0), b.stride(1), *_strides(weights), b.shape[1],
            DOT=dot, BLOCK_M=tile.block_m, BLOCK_R=block_r, BLOCK_N=block_n,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def outer(
    out: Tensor, left: Tensor, x: Tensor, rows: Rows, order: tuple[Tensor, Tensor] | None
) -> Tensor:
    """``out``, with each bank entry's sum over its tokens of ``left`` times ``x`` in it.

    Args:
        out: ``(S, R, H)`` contiguous.
        left: float32 ``(B, T, met)`` contiguous; x: ``(B, T, H)`` contiguous.
        rows: which rows met which tokens.
        order: ``segments.by_entry`` of the slots; None without slots.
    """
    tile = tiles.choose("outer", x.shape[-1], x.shape[-1], rows.per, rows.tokens)
    block_r = max(16, min(tile.block_r, power_of_2(rows.per)))
    block_n = max(16, min(tile.block_n, power_of_2(x.shape[-1])))
    block_t = max(16, min(tile.block_k, power_of_2(rows.tokens)))
    grid = (out.shape[0], _cdiv(x.shape[-1], block_n), _cdiv(rows.per, block_r))
    pairs, bounds = (None, None) if order is None else order
    with _on(x):
        triton_lora.outer[grid](
            out, left, x, pairs, bounds, rows.ranks, rows.tokens, rows.met, rows.per,
            rows.met // rows.per, x.shape[-1], DOT=triton_lora.dot_type(x.dtype), BLOCK_R=block_r,
            BLOCK_T=block_t, BLOCK_N=block_n, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def block_rows(met: int, tile: tiles.Tile) -> int:
    """Rows of the bank in a block: NVIDIA's dots want 16, and products that don't fit go on."""
    return max(16 if tile.block_m > 1 else 2, min(tile.block_r, power_of_2(met)))


def _strides(weights: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if weights is None else weights.stride()


def _segments(
    x: Tensor, rows: Rows, tile: tiles.Tile
) -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None], int]:
    """Arguments that say which tokens a tile has, and the number of programs."""
    batch, tokens = x.shape[:2]
    if tile.block_m == 1:
        return (None, None, None), batch * tokens
    programs = batch * _cdiv(tokens, tile.block_m)
    # a tile that one batch row fills has nothing to gain from another row with the same set
    if rows.slots is None or tokens >= tile.block_m or batch > MOST_ROWS:
        return (None, None, None), programs
    return Segments.of(rows.slots, tokens, tile.block_m), programs


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _cdiv(number: int, by: int) -> int:
    return -(-number // by)
