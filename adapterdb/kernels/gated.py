"""Deltas chosen token by token: a gate at a linear weighs the K deltas of each batch row.

Semantics at one site, for batch row b, token t and delta k (A, B of rank R, B transposed):

    h[k]      = x[b, t] @ A[k].T
    logit[k]  = x[b, t] . vectors[k]      learned, MeteoRA (arXiv 2405.13053)
                or |h[k] . cores[k]|      arrow, training-free (arXiv 2405.11157)
    weight    = softmax over the top_k logits / temperature, 0 for the others
    y[b, t]  += sum_k weight[k] * scale * h[k] @ B[k]

Arrow's logit is |x . v| for v, the top right-singular vector of B A. Since v lies in the span of
A's rows, v = A.T @ core with only R numbers, and the logit falls out of the shrink that is made
anyway. One normalisation, with the temperature, serves training and inference alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import fused, native
from adapterdb.kernels.lora import Impl, add_lora, refuse
from adapterdb.kernels.products import Products, check
from adapterdb.kernels.reference import add_expanded


@dataclass(frozen=True, eq=False)
class TokenGate:
    """The gate of one site, for S bank rows that serve equal runs of the batch.

    What can be known without looking at a token is found at the first use and kept, so that a
    decoding step asks nothing twice: its tensors must not change between uses.

    Attributes:
        live: bool ``(S, K)``; a delta that is not live gets weight 0.
        fixed: bool ``(S,)``: rows whose live deltas all act with weight 1, ungated.
        top_k: int64 ``(S,)``, at least 1.
        temperature: float32 ``(S,)``, above 0.
        cores: float32 ``(S, K, R)`` of arrow's logits; None where all deltas are learned.
        vectors: ``(S, K, H1)`` of learned logits; None where none is.
        learned: bool ``(S, K)``: which deltas ``vectors`` are of; None where ``vectors`` is.
        offset: float32 ``(S, K)`` added to arrow's logits, to stand beside learned ones; or None.
    """

    live: Tensor
    fixed: Tensor
    top_k: Tensor
    temperature: Tensor
    cores: Tensor | None
    vectors: Tensor | None = None
    learned: Tensor | None = None
    offset: Tensor | None = None

    def of_rows(self, rows: Tensor) -> TokenGate:
        """The gate for some of its bank rows, int64 ``(S',)``."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: part[rows] for n, part in parts.items() if part is not None})

    @cached_property
    def some_fixed(self) -> bool:
        """Whether any row is ungated."""
        return bool(self.fixed.any())

    @cached_property
    def all_live(self) -> bool:
        """Whether every row has K deltas."""
        return bool(self.live.all())

    @cached_property
    def one_top_k(self) -> int | None:
        """The top_k of all rows, at most K; None where they differ."""
        least, most = (int(k) for k in self.top_k.clamp(max=self.live.shape[1]).aminmax())
        return most if least == most else None

    @cached_property
    def plain_temperature(self) -> bool:
        """Whether every temperature is 1."""
        return bool((self.temperature == 1).all())

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """K*R and H1 of the A it is for, 0 where any will do; InvalidInput if it can be of none."""
        rows, k = self.live.shape
        whole = (self.fixed, self.top_k, self.temperature)
        if any(t.shape != (rows,) for t in whole) or any(
            t is not None and t.shape[:2] != (rows, k)
            for t in (self.learned, self.offset, self.cores, self.vectors)
        ):
            raise _misfit("itself", self)
        cores, vectors = self.cores, self.vectors
        wide = 0 if cores is None else k * cores.shape[2]
        return wide, 0 if vectors is None else vectors.shape[2]

    @cached_property
    def tables(self) -> native.GateTables:
        """The gate as the C kernel reads it."""
        vectors = self.vectors
        if vectors is not None and vectors.dtype != torch.bfloat16:
            vectors = vectors.float()
        return native.GateTables(
            self.live.bool().contiguous(),
            self.fixed.bool().contiguous(),
            self.top_k.long().contiguous(),
            native.as_floats(self.temperature),
            None if self.cores is None else native.as_floats(self.cores),
            None if self.offset is None else native.as_floats(self.offset),
            None if vectors is None else vectors.detach().contiguous(),
            None if self.learned is None else self.learned.bool().contiguous(),
        )


class Gated(NamedTuple):
    """Output ``y``, and for each token its ``logits`` and ``weights (S, T', K)`` float32."""

    y: Tensor
    logits: Tensor
    weights: Tensor


def add_gated(
    y: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    gate: TokenGate,
    scale: float = 1.0,
    impl: Impl = "auto",
    *,
    inplace: bool = False,
) -> Gated:
    """``y`` plus the low-rank products of ``x``, weighed for each token. Differentiable.

    Args:
        y: ``(S, T', H2)`` output of the frozen linear, as runs of the S rows.
        x: ``(S, T', H1)`` its input.
        a: ``(S, K*R, H1)``; b: ``(S, K*R, H2)``; weights of whole deltas belong into b, since a
            also makes arrow's logits.
        gate: of this site.
        scale: multiplies every product.
        impl: of the products, see ``add_lora``; ``native`` makes logits and weights as well.
        inplace: the result may be written over ``y``, where no gradient is wanted.

    Raises:
        InvalidInput: if shapes don't fit each other, or ``impl`` can't do this.
    """
    products = Products(y, x, a, b, scale=scale, inplace=inplace)
    check(products)
    _check(a, gate)
    if impl == "native" or (impl == "auto" and native.pays(products)):
        reason = native.obstacle(products) or _obstacle(gate)
        if reason is None:
            return Gated(*native.add_gated(products, gate.tables))
        if impl == "native":
            refuse(impl, reason)
    rows, k = gate.live.shape
    rank = a.shape[1] // k
    if impl == "triton":
        refuse(impl, fused.obstacle(products))
    in_triton = impl == "triton" or (impl == "auto" and fused.pays(products))
    bank = fused.Bank(k=k)
    h = fused.shrink(x, a, bank) if in_triton else torch.bmm(x, a.to(x.dtype).mT)
    parts = h.view(*h.shape[:2], k, rank)
    logits = _logits(x, parts, gate)
    weights = _weights(logits, gate)
    if in_triton:
        return Gated(fused.expand(y, h, b, bank, weights, scale), logits, weights)
    if impl in ("auto", "reference"):
        h = (parts * weights.to(h.dtype)[..., None]).flatten(-2)
        return Gated(add_expanded(y, h, b, scale, products.writable), logits, weights)
    slots = torch.arange(rows * k, device=x.device).view(rows, k)
    bank_a, bank_b = (t.reshape(rows * k, rank, t.shape[-1]) for t in (a, b))
    out = add_lora(y, x, bank_a, bank_b, slots, weights, scale, impl, inplace=inplace)
    return Gated(out, logits, weights)


def gate_weights(logits: Tensor, live: Tensor, top_k: Tensor, temperature: Tensor) -> Tensor:
    """Softmax of the ``top_k`` largest of ``logits / temperature``; 0 for all others.

    Args:
        logits: ``(S, T', K)``; live: bool ``(S, K)``; top_k: int64 ``(S,)``; temperature: ``(S,)``.

    Returns:
        ``(S, T', K)`` float32; rows sum to 1, or to 0 where nothing is live.
    """
    low = torch.finfo(torch.float32).min
    values = (logits.float() / temperature[:, None, None]).masked_fill(~live[:, None], low)
    values, order = values.sort(dim=-1, descending=True)
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    values = values.masked_fill(ranks >= top_k[:, None, None], low)
    weights = torch.zeros_like(values).scatter(-1, order, values.softmax(-1))
    return weights * live[:, None]


def _weights(logits: Tensor, gate: TokenGate) -> Tensor:
    """What ``gate_weights`` gives, and 1 in fixed rows, in as few operations as the gate allows."""
    top_k = gate.one_top_k
    if top_k is None or not gate.all_live:
        weights = gate_weights(logits, gate.live, gate.top_k, gate.temperature)
    else:
        if not gate.plain_temperature:
            logits = logits / gate.temperature[:, None, None]
        if top_k == logits.shape[-1]:
            weights = logits.softmax(-1)
        else:
            values, order = logits.topk(top_k, dim=-1)
            weights = torch.zeros_like(logits).scatter(-1, order, values.softmax(-1))
    if not gate.some_fixed:
        return weights
    always = gate.live[:, None].to(weights.dtype).expand_as(weights)
    return torch.where(gate.fixed[:, None, None], always, weights)


def _logits(x: Tensor, h: Tensor, gate: TokenGate) -> Tensor:
    """``(S, T', K)`` float32 from ``x (S, T', H1)`` and ``h (S, T', K, R)``."""
    arrow = learned = None
    if gate.cores is not None:
        arrow = (h.float() * gate.cores[:, None]).sum(-1).abs()
        if gate.offset is not None:
            arrow = arrow + gate.offset[:, None]
    if gate.vectors is not None:
        learned = torch.bmm(x, gate.vectors.to(x.dtype).mT).float()
    if arrow is None or learned is None:
        found = learned if arrow is None else arrow
        assert found is not None, "a gate needs cores or vectors"
        return found
    assert gate.learned is not None
    return torch.where(gate.learned[:, None], learned, arrow)


def _check(a: Tensor, gate: TokenGate) -> None:
    """InvalidInput where the gate is of other deltas; the C kernel would read beyond them."""
    rows, k = gate.live.shape
    wide, inside = gate.sizes
    s, c, h1 = a.shape
    if rows != s or c % k or wide not in (0, c) or inside not in (0, h1):
        raise _misfit(f"a {tuple(a.shape)}", gate)


def _misfit(what: str, gate: TokenGate) -> InvalidInput:
    return InvalidInput(
        f"the gate of (S, K) {tuple(gate.live.shape)} does not fit {what}: expected a"
        " (S, K*R, H1), cores (S, K, R), vectors (S, K, H1), learned and offset (S, K), others (S,)"
    )


def _obstacle(gate: TokenGate) -> str | None:
    """Why the C kernel can't judge as this gate does, or None."""
    if gate.cores is None and gate.vectors is None:
        return "the gate has neither cores nor vectors"
    if not gate.live.is_cpu:
        return f"it runs on a CPU, and the gate is on {gate.live.device}"
    tensors = (gate.cores, gate.vectors, gate.offset)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return "it has no gradient, and the gate may want one"
    return None
