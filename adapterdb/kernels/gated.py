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

from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.kernels.lora import Impl, add_lora


class TokenGate(NamedTuple):
    """The gate of one site, for S bank rows that serve equal runs of the batch.

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
) -> Gated:
    """``y`` plus the low-rank products of ``x``, weighed for each token. Differentiable.

    Args:
        y: ``(S, T', H2)`` output of the frozen linear, as runs of the S rows.
        x: ``(S, T', H1)`` its input.
        a: ``(S, K*R, H1)``; b: ``(S, K*R, H2)``; weights of whole deltas belong into b, since a
            also makes arrow's logits.
        gate: of this site.
        scale: multiplies every product.
        impl: of the products, see ``add_lora``.
    """
    rows, k = gate.live.shape
    rank = a.shape[1] // k
    h = torch.bmm(x, a.to(x.dtype).mT)
    parts = h.view(*h.shape[:2], k, rank)
    logits = _logits(x, parts, gate)
    weights = gate_weights(logits, gate.live, gate.top_k, gate.temperature)
    if bool(gate.fixed.any()):
        always = gate.live[:, None].to(weights.dtype).expand_as(weights)
        weights = torch.where(gate.fixed[:, None, None], always, weights)
    if impl in ("auto", "reference"):
        h = (parts * (weights * scale).to(h.dtype)[..., None]).flatten(-2)
        return Gated(y + torch.bmm(h, b.to(h.dtype)).to(y.dtype), logits, weights)
    slots = torch.arange(rows * k, device=x.device).view(rows, k)
    bank_a, bank_b = (t.reshape(rows * k, rank, t.shape[-1]) for t in (a, b))
    return Gated(add_lora(y, x, bank_a, bank_b, slots, weights, scale, impl), logits, weights)


def gate_weights(logits: Tensor, live: Tensor, top_k: Tensor, temperature: Tensor) -> Tensor:
    """Softmax of the ``top_k`` largest of ``logits / temperature``; 0 for all others.

    Args:
        logits: ``(S, T', K)``; live: bool ``(S, K)``; top_k: int64 ``(S,)``; temperature: ``(S,)``.

    Returns:
        ``(S, T', K)`` float32; rows sum to 1, or to 0 where nothing is live.
    """
    low = torch.finfo(torch.float32).min
    values, order = logits.float().masked_fill(~live[:, None], low).sort(dim=-1, descending=True)
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    values = (values / temperature[:, None, None]).masked_fill(ranks >= top_k[:, None, None], low)
    weights = torch.zeros_like(values).scatter(-1, order, values.softmax(-1))
    return weights * live[:, None]


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
