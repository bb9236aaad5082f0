"""The one numeric primitive: add a weighted sum of low-rank deltas to a linear's output.

Semantics, for batch row b and token t (A and B of slot s are ``a[s]`` and ``b[s]``, B transposed):

    y[b, t] += sum_k weights[b, (t,) k] * scale * (x[b, t] @ a[slots[b, k]].T) @ b[slots[b, k]]

Checks its arguments, chooses an implementation, and calls it. Differentiable in every float
argument. Sorting work by slot, paging and storage are other files' business.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import reference

Impl = Literal["auto", "reference", "loop", "gathered", "native", "triton"]
IMPLS: tuple[Impl, ...] = get_args(Impl)


def add_lora(
    y: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    slots: Tensor | None = None,
    weights: Tensor | None = None,
    scale: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """``y`` plus the weighted low-rank products of ``x``, as a new tensor.

    Args:
        y: ``(B, T, H2)`` output of the frozen linear.
        x: ``(B, T, H1)`` its input.
        a: ``(S, R, H1)`` bank of A, any strides with the last dimension contiguous.
        b: ``(S, R, H2)`` bank of transposed B.
        slots: int64 ``(B, K)`` bank rows of each batch row, -1 for none; or None, which means
            that the S rows serve equal runs of the batch in order (S divides B): no gather.
        weights: ``(B, K)`` for a whole sequence or ``(B, T, K)`` for each token; None means 1.
            Needs ``slots``.
        scale: multiplies every product (alpha / rank).
        impl: ``"auto"`` chooses; ``"reference"`` is plain torch, the CPU path.

    Returns:
        ``(B, T, H2)`` in the dtype of ``y``.

    Raises:
        InvalidInput: if shapes don't fit each other; both are named.
    """
    _check(y, x, a, b, slots, weights)
    if impl not in ("auto", "reference"):
        raise InvalidInput(f"impl {impl!r} is not one of 'auto', 'reference'")
    if slots is None:
        return reference.add_aligned(y, x, a, b, scale)
    return reference.add_gathered(y, x, a, b, slots, weights, scale)


def _check(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: Tensor | None, weights: Tensor | None
) -> None:
    batch, tokens = x.shape[:2]
    if x.dim() != 3 or y.shape != (batch, tokens, b.shape[-1]) or a.shape[-1] != x.shape[-1]:
        raise InvalidInput(
            f"x {tuple(x.shape)}, y {tuple(y.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)}:"
            " expected x (B, T, H1), y (B, T, H2), a (S, R, H1), b (S, R, H2)"
        )
    if a.shape[:2] != b.shape[:2]:
        raise InvalidInput(f"a has (S, R) {tuple(a.shape[:2])}, b has {tuple(b.shape[:2])}")
    if slots is None:
        if weights is not None:
            raise InvalidInput("weights need slots; without slots each bank row acts with weight 1")
        if batch % a.shape[0]:
            raise InvalidInput(f"{a.shape[0]} bank rows can't serve equal runs of {batch} rows")
        return
    if slots.dim() != 2 or slots.shape[0] != batch or slots.dtype != torch.int64:
        raise InvalidInput(f"slots {tuple(slots.shape)} {slots.dtype}: expected int64 ({batch}, K)")
    allowed = (tuple(slots.shape), (batch, tokens, slots.shape[1]))
    if weights is not None and tuple(weights.shape) not in allowed:
        raise InvalidInput(f"weights {tuple(weights.shape)}: expected {allowed[0]} or {allowed[1]}")
