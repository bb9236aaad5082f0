"""The four Triton kernels behind ``add_lora``; the only file that imports Triton.

A batch row meets ``count`` bank rows: ``per`` of each of its slots, or, without slots, the rows of
"its" bank entry. All kernels gather these rows by address, so nothing is copied:

    fused     shrink and expand in one launch, for few tokens: each tile of N makes h again
    shrink    h[m, j] = x[m] . a[j] * a_scale[j], in planes that are to be summed
    expand    y[m] + sum_j gain * weight[m, j / per] * h[m, j] * b_scale[j] * b[j]
    outer     gradient of a bank: sum over the tokens m of each entry of left[m, j] * x[m]

``fused``, and the other two with BLOCK_M 1, sum float32 products: one token per set of deltas
leaves nothing for tensor cores. Otherwise shrink and expand are dots over tiles of tokens with one
set; NVIDIA's want 16 at least of the summed dimension. Sums have a fixed order and there are no
atomics: equal input, equal bits. Tile sizes and grids are ``launches``' business.

With ``TRITON_INTERPRET=1`` set before Triton is first imported everything runs on the CPU. The
interpreter multiplies the bit patterns of bfloat16 dots, so operands are then float32.
"""

# Triton reads the annotations of kernels itself, and its decorators have no types
# ruff: noqa: ANN001, ANN201, N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETING = not isinstance(tl.sum, triton.JITFunction)
_DOT = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def dot_type(dtype: torch.dtype) -> Any:
    """Of the operands of a dot of ``dtype`` numbers."""
    return tl.float32 if INTERPRETING else _DOT[dtype]


# numbers that change from request to request, and whose divisibility helps no load: one compiled
# kernel is for them all
_ANY = ["tokens", "count", "per"]
_ANY_WEIGHTS = [*_ANY, "tiles_n", "w_batch", "w_token", "w_slot", "scales"]


@triton.jit
def bank_rows(slots, ranks, row, j, count, per):
    """Entry, row inside it, and whether it counts, of the j-th bank rows of a batch row."""
    live = j < count
    if slots is None:
        entry = row.to(tl.int64) + tl.zeros_like(j)
        r = j
    else:
        entry = tl.load(slots + row * (count // per) + j // per, mask=live, other=-1)
        live = entry >= 0
        entry = tl.maximum(entry, 0)
        r = j % per
    if ranks is not None:
        live = live & (r < tl.load(ranks + entry, mask=live, other=0))
    return entry, r, live


@triton.jit
def tile_tokens(order, starts, ends, i, tokens, BLOCK_M: tl.constexpr):
    """A tile: the batch row whose set it has, its tokens, which exist, and whether any does."""
    some = i >= 0
    if order is None:
        per_row = tl.cdiv(tokens, BLOCK_M)
        row = i // per_row
        places = (i % per_row) * BLOCK_M + tl.arange(0, BLOCK_M)
        exist = places < tokens
        token = row * tokens + places
    else:
        first = tl.load(starts + i)
        end = tl.load(ends + i)
        places = first + tl.arange(0, BLOCK_M)
        exist = places < end
        token = tl.load(order + places // tokens, mask=exist, other=0) * tokens + places % tokens
        some = first < end
        row = tl.load(order + first // tokens, mask=some, other=0)
    return row, token.to(tl.int64), exist, some


@triton.jit(do_not_specialize=_ANY_WEIGHTS)
def fused(
    out, y, x, a, b, slots, ranks, weights, a_scale, b_scale, gain, tokens, count, per, h1, h2,
    tiles_n, a_entry, a_row, b_entry, b_row, w_batch, w_token, w_slot, scales,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program for each token and tile of N; neighbours share a token, so A comes from L2."""
    token = (tl.program_id(0) // tiles_n).to(tl.int64)
    row = token // tokens
    n = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.load(y + token * h2 + n, mask=n < h2, other=0.0).to(tl.float32)
    for first in range(0, count, BLOCK_R):
        j = first + tl.arange(0, BLOCK_R)
        entry, r, live = bank_rows(slots, ranks, row, j, count, per)
        factor = tl.full([BLOCK_R], 1.0, tl.float32) * gain
        if weights is not None:
            w = weights + row * w_batch + (token % tokens) * w_token + (j // per) * w_slot
            factor *= tl.load(w, mask=live, other=0.0).to(tl.float32)
            live = live & (factor != 0.0)  # a delta the gate left out costs no bytes
        if a_scale is not None:
            factor *= tl.load(a_scale + entry * scales + r, mask=live, other=0.0)
        if b_scale is not None:
            factor *= tl.load(b_scale + entry * scales + r, mask=live, other=0.0)
        a_at = a + entry * a_entry + r * a_row
        products = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
        for start in range(0, h1, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            xs = tl.load(x + token * h1 + k, mask=k < h1, other=0.0).to(tl.float32)
            mask = live[:, None] & (k < h1)[None, :]
            values = tl.load(a_at[:, None] + k[None, :], mask=mask, other=0)
            products += values.to(tl.float32) * xs[None, :]
        h = tl.sum(products, 1) * factor
        b_at = b + entry * b_entry + r * b_row
        mask = live[:, None] & (n < h2)[None, :]
        values = tl.load(b_at[:, None] + n[None, :], mask=mask, other=0)
        total += tl.sum(values.to(tl.float32) * h[:, None], 0)
    tl.store(out + token * h2 + n, total.to(out.dtype.element_ty), mask=n < h2)


@triton.jit(do_not_specialize=[*_ANY, "scales"])
def shrink(
    planes, x, a, slots, ranks, a_scale, order, starts, ends, tokens, count, per, h1, chunk,
    plane, a_entry, a_row, scales,
    DOT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each tile of tokens, plane, and block of bank rows."""
    j = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    begin = tl.program_id(1) * chunk
    stop = tl.minimum(begin + chunk, h1)
    if BLOCK_M == 1:
        token = tl.program_id(0).to(tl.int64)
        entry, r, live = bank_rows(slots, ranks, token // tokens, j, count, per)
        a_at = a + entry * a_entry + r * a_row
        products = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
        for start in range(begin, stop, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            xs = tl.load(x + token * h1 + k, mask=k < stop, other=0.0).to(tl.float32)
            mask = live[:, None] & (k < stop)[None, :]
            values = tl.load(a_at[:, None] + k[None, :], mask=mask, other=0)
            products += values.to(tl.float32) * xs[None, :]
        h = tl.sum(products, 1)
        if a_scale is not None:
            h *= tl.load(a_scale + entry * scales + r, mask=live, other=0.0)
        tl.store(planes + tl.program_id(1) * plane + token * count + j, h, mask=j < count)
    else:
        i = tl.program_id(0)
        row, token, exist, some = tile_tokens(order, starts, ends, i, tokens, BLOCK_M)
        entry, r, live = bank_rows(slots, ranks, row, j, count, per)
        stop = tl.where(some, stop, begin)
        a_at = a + entry * a_entry + r * a_row
        total = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
        for start in range(begin, stop, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            mask = exist[:, None] & (k < stop)[None, :]
            xs = tl.load(x + token[:, None] * h1 + k[None, :], mask=mask, other=0.0)
            mask = live[:, None] & (k < stop)[None, :]
            values = tl.load(a_at[:, None] + k[None, :], mask=mask, other=0)
            total = tl.dot(xs.to(DOT), tl.trans(values.to(DOT)), total, input_precision="ieee")
        if a_scale is not None:
            total *= tl.load(a_scale + entry * scales + r, mask=live, other=0.0)[None, :]
        at = planes + tl.program_id(1) * plane + token[:, None] * count + j[None, :]
        tl.store(at, total, mask=exist[:, None] & (j < count)[None, :])


@triton.jit(do_not_specialize=[*_ANY_WEIGHTS, "splits"])
def expand(
    out, y, planes, b, slots, ranks, weights, b_scale, order, starts, ends, gain, tokens, count,
    per, h2, tiles_n, splits, plane, b_entry, b_row, w_batch, w_token, w_slot, scales,
    DOT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program for each tile of tokens and tile of N."""
    n = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    i = tl.program_id(0) // tiles_n
    if BLOCK_M == 1:
        token = i.to(tl.int64)
        row = token // tokens
        total = tl.zeros([BLOCK_N], tl.float32)
        if y is not None:
            total += tl.load(y + token * h2 + n, mask=n < h2, other=0.0).to(tl.float32)
        for first in range(0, count, BLOCK_R):
            j = first + tl.arange(0, BLOCK_R)
            entry, r, live = bank_rows(slots, ranks, row, j, count, per)
            h = tl.zeros([BLOCK_R], tl.float32)
            for split in range(0, splits):
                h += tl.load(planes + split * plane + token * count + j, mask=live, other=0.0)
            h *= gain
            if weights is not None:
                w = weights + row * w_batch + (token % tokens) * w_token + (j // per) * w_slot
                h *= tl.load(w, mask=live, other=0.0).to(tl.float32)
                live = live & (h != 0.0)
            if b_scale is not None:
                h *= tl.load(b_scale + entry * scales + r, mask=live, other=0.0)
            b_at = b + entry * b_entry + r * b_row
            mask = live[:, None] & (n < h2)[None, :]
            values = tl.load(b_at[:, None] + n[None, :], mask=mask, other=0)
            total += tl.sum(values.to(tl.float32) * h[:, None], 0)
        tl.store(out + token * h2 + n, total.to(out.dtype.element_ty), mask=n < h2)
    else:
        row, token, exist, some = tile_tokens(order, starts, ends, i, tokens, BLOCK_M)
        inside = exist[:, None] & (n < h2)[None, :]
        places = token[:, None] * h2 + n[None, :]
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(0, tl.where(some, count, 0), BLOCK_R):
            j = first + tl.arange(0, BLOCK_R)
            entry, r, live = bank_rows(slots, ranks, row, j, count, per)
            mask = exist[:, None] & live[None, :]
            h = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
            for split in range(0, splits):
                at = planes + split * plane + token[:, None] * count + j[None, :]
                h += tl.load(at, mask=mask, other=0.0)
            h *= gain
            if weights is not None:
                w = weights + (token // tokens) * w_batch + (token % tokens) * w_token
                at = w[:, None] + ((j // per) * w_slot)[None, :]
                h *= tl.load(at, mask=mask, other=0.0).to(tl.float32)
            if b_scale is not None:
                h *= tl.load(b_scale + entry * scales + r, mask=live, other=0.0)[None, :]
            b_at = b + entry * b_entry + r * b_row
            mask = live[:, None] & (n < h2)[None, :]
            values = tl.load(b_at[:, None] + n[None, :], mask=mask, other=0)
            total = tl.dot(h.to(DOT), values.to(DOT), total, input_precision="ieee")
        if y is not None:
            total += tl.load(y + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + places, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*_ANY, "slots_k"])
def outer(
    out, left, x, pairs, bounds, ranks, tokens, count, per, slots_k, width,
    DOT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program for each bank entry, tile of N, and block of its rows."""
    entry = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = r < per
    if ranks is not None:
        live = live & (r < tl.load(ranks + entry))
    first, end = entry, entry + 1
    if pairs is not None:
        first, end = tl.load(bounds + entry), tl.load(bounds + entry + 1)
    total = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for place in range(first, end):
        pair = place
        if pairs is not None:
            pair = tl.load(pairs + place)
        begin = (pair // slots_k).to(tl.int64) * tokens
        column = (pair % slots_k) * per + r
        for start in range(0, tokens, BLOCK_T):
            t = start + tl.arange(0, BLOCK_T)
            exist = t < tokens
            at = left + (begin + t)[None, :] * count + column[:, None]
            ls = tl.load(at, mask=live[:, None] & exist[None, :], other=0.0)
            at = x + (begin + t)[:, None] * width + n[None, :]
            xs = tl.load(at, mask=exist[:, None] & (n < width)[None, :], other=0.0)
            total = tl.dot(ls.to(DOT), xs.to(DOT), total, input_precision="ieee")
    at = out + (entry.to(tl.int64) * per + r[:, None]) * width + n[None, :]
    mask = (r < per)[:, None] & (n < width)[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=mask)
