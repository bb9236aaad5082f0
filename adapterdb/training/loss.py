"""Token sequences as padded tensors, and the loss of each passage over its labelled tokens.

Logits exist for a few positions at a time and only where there is a label. The result for a passage
does not depend on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.training.head import SplitModel
from adapterdb.training.objective import TokenSequence

_LOGITS = {"cpu": 2**21, "cuda": 2**27}  # numbers that exist at once; what a CPU's cache holds


class Targets(NamedTuple):
    """The labelled positions of a batch, in row order.

    Attributes:
        labels: int64 ``(n,)``, the tokens to be said.
        owners: int64 ``(n,)``, whose position it is, 0 to N - 1.
        shares: float32 ``(n,)``, 1 / (labelled positions of the owner).
        passages: N.
    """

    labels: Tensor
    owners: Tensor
    shares: Tensor
    passages: int


def targets_of(labels: Tensor, passages: int) -> Targets:
    """The targets in padded labels ``(N * M, T)``, where passage n owns the M rows from n * M."""
    rows = torch.arange(labels.shape[0], device=labels.device)
    kept = labels != -100
    owners = (rows // (labels.shape[0] // passages))[:, None].expand_as(labels)[kept]
    counts = torch.bincount(owners, minlength=passages)
    return Targets(labels[kept], owners, 1 / counts[owners], passages)


def cross_entropies(
    model: SplitModel, hidden: Tensor, labels: Tensor, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each labelled place, and the gradient of their shared sum.

    Semantics: ``each = logsumexp(logits) - logits[label]`` and the gradient of
    ``(each * shares).sum()``, whose logits' part is ``shares * (softmax(logits) - onehot(label))``.

    Args:
        model: whose head is applied, a few places at a time.
        hidden: ``(n, H)`` without autograd history.
        labels: int64 ``(n,)``.
        shares: ``(n,)``; None if no gradient is wanted.

    Returns:
        ``(n,)`` in nats, float32 or wider; and ``(n, H)`` like ``hidden``, or an empty tensor.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    each = hidden.new_empty(len(hidden), dtype=wide)
    upstream = hidden.new_empty(0) if shares is None else torch.empty_like(hidden)
    chunk = max(16, _LOGITS[hidden.device.type] // model.vocabulary)
    space = hidden.new_empty(min(chunk, len(hidden)), model.vocabulary, dtype=wide)
    for first in range(0, len(hidden), chunk):
        part = slice(first, first + chunk)
        with torch.set_grad_enabled(shares is not None):
            leaf = hidden[part].detach().requires_grad_(shares is not None)
            logits = model.logits(leaf)
        with torch.no_grad():
            label = labels[part, None]
            powers = space[: len(leaf)].copy_(logits)
            said = powers.gather(1, label)
            most = powers.amax(-1, keepdim=True)
            total = powers.sub_(most).exp_().sum(-1, keepdim=True)
            each[part] = (most + total.log() - said)[:, 0]
            if shares is None:
                continue
            share = shares[part, None].to(wide)
            slope = powers.mul_(share / total).to(logits.dtype)
            right = ((said - most).exp() / total - 1) * share
            slope.scatter_(1, label, right.to(slope.dtype))
        (upstream[part],) = torch.autograd.grad(logits, leaf, slope)
    return each, upstream


def pad(sequences: Sequence[TokenSequence], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ``input_ids``, ``attention_mask`` and shifted ``labels``, each int64 ``(B, T)``.

    An empty sequence gives a row of padding without labels (it keeps one attended position, since
    attention over nothing is undefined).
    """
    width = max(2, max(len(s.ids) for s in sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, sequence in enumerate(sequences):
        n = len(sequence.ids)
        ids[row, :n] = torch.tensor(sequence.ids, dtype=torch.int64)
        mask[row, : max(n, 1)] = 1
        first = max(sequence.loss_from, 1)
        if n > first:
            labels[row, first - 1 : n - 1] = ids[row, first:n]
    return ids.to(device), mask.to(device), labels.to(device)
