"""The one numeric primitive: add a weighted sum of low-rank deltas to a linear's output.

Semantics, for batch row b and token t (A and B of slot s are ``a[s]`` and ``b[s]``, B transposed):

    y[b, t] += sum_k weights[b, (t,) k] * scale * (x[b, t] @ a[slots[b, k]].T) @ b[slots[b, k]]

Chooses an implementation and calls it:

    reference   plain torch, readable, differentiable, fast enough to be the CPU path
    loop        one slot after the other, as MeteoRA's first forward (arXiv 2405.13053)
    gathered    A and B copied for each pair of token and delta, as MeteoRA's bmm
    native      a small C kernel for decoding on a CPU
    triton      the GPU path

Sorting work by slot, paging and storage are other files' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import fused, native, reference, strategies
from adapterdb.kernels.products import Products, check

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
    *,
    ranks: Tensor | None = None,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """``y`` plus the weighted low-rank products of ``x``.

    Args:
        y: ``(B, T, H2)`` output of the frozen linear.
        x: ``(B, T, H1)`` its input.
        a: ``(S, R, H1)`` bank of A, any strides with the last dimension contiguous.
        b: ``(S, R, H2)`` bank of transposed B.
        slots: int64 ``(B, K)`` bank rows of each batch row, -1 for none (a linear that a delta
            does not adapt); or None, which means that the S rows serve equal runs of the batch
            in order (S divides B): no gather.
        weights: ``(B, K)`` for a whole sequence or ``(B, T, K)`` for each token; None means 1.
            Needs ``slots``.
        scale: multiplies every product (alpha / rank).
        impl: ``"auto"`` takes what is fastest here; any other is taken or refused.
        ranks: int64 ``(S,)``: rank rows at and beyond ``ranks[s]`` are ignored, whatever is in
            them, so that deltas of several ranks share a bank; None means all R act.
        a_scale: ``(S, R)`` where a is int8: a number is its int8 times the scale of its rank row
            (see ``kernels.quantize``); b_scale: the same for b.
        inplace: the result may be written over ``y``, where no gradient is wanted.

    Returns:
        ``(B, T, H2)`` in the dtype of ``y``; a new tensor unless ``inplace``.

    Raises:
        InvalidInput: if shapes don't fit each other (both are named), or the implementation asked
            for can't do this.
    """
    if (
        impl == "auto"
        and inplace
        and slots is None
        and _bare(y, x, a, b, (weights, ranks, a_scale, b_scale))
    ):
        return y.baddbmm_(torch.bmm(x, a.mT), b, alpha=scale)
    products = Products(y, x, a, b, slots, weights, scale, ranks, a_scale, b_scale, inplace)
    check(products)
    if impl == "auto":
        return _auto(products)
    if impl not in IMPLS:
        raise InvalidInput(f"impl {impl!r} is not one of {', '.join(map(repr, IMPLS))}")
    if impl == "native":
        refuse(impl, native.obstacle(products))
    if impl == "triton":
        refuse(impl, fused.obstacle(products))
    return _ADD[impl](products)


def _bare(y: Tensor, x: Tensor, a: Tensor, b: Tensor, more: tuple[Tensor | None, ...]) -> bool:
    """Whether two products of float32 on a CPU are all there is to do, as at a decoding step.

    There checks and records take 12 of 15 us, more than any kernel saves (16 questions, 24 linears
    in turn: 25 us each so, 38 us in C).
    """
    return (
        y.is_cpu and a.is_cpu
        and y.dtype == x.dtype == a.dtype == b.dtype == torch.float32
        and y.dim() == x.dim() == 3 and a.shape == (len(x), b.shape[1], x.shape[2])
        and y.shape == (len(b), x.shape[1], b.shape[2])
        and not torch.is_grad_enabled() and not any(t is not None for t in more)
    )  # fmt: skip


def refuse(impl: Impl, reason: str | None) -> None:
    """InvalidInput if there is a reason why ``impl`` can't run."""
    if reason is not None:
        raise InvalidInput(f"impl {impl!r} can't do this: {reason}", hint="use impl='auto'")


def _auto(products: Products) -> Tensor:
    """What was measured fastest for such products on such a machine."""
    if native.pays(products) and native.obstacle(products) is None:
        return native.add(products)
    if fused.pays(products):
        return fused.add(products)
    return reference.add(products)


_ADD: dict[str, Callable[[Products], Tensor]] = {
    "reference": reference.add,
    "loop": strategies.add_loop,
    "gathered": strategies.add_gathered,
    "native": native.add,
    "triton": fused.add,
}
