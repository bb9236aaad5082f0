"""Token sequences as padded tensors, and the loss of each passage over its labelled tokens.

Logits exist for a few positions at a time and only where there is a label. The result for a passage
does not depend on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdb.training.head import SplitModel
from adapterdb.training.objective import TokenSequence

CHUNK = 128  # positions whose logits exist at once: 16 MB of float32 for 30,000 words


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


def token_losses(
    model: SplitModel, hidden: Tensor, targets: Targets, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of each passage's labelled tokens, and its gradient for the hidden states.

    Args:
        model: whose head is applied, a few positions at a time.
        hidden: ``(n, H)`` without autograd history.
        targets: of the n positions.
        gradient: whether the gradient is wanted.

    Returns:
        Losses ``(N,)`` in nats, 0 for a passage without labels; and the gradient of their sum,
        ``(n, H)`` like ``hidden``, or an empty tensor.
    """
    losses = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
    losses = losses.to(hidden.device)
    upstream = torch.empty_like(hidden) if gradient else hidden.new_empty(0)
    for first in range(0, len(hidden), CHUNK):
        part = slice(first, first + CHUNK)
        with torch.set_grad_enabled(gradient):
            leaf = hidden[part].detach().requires_grad_(gradient)
            logits = model.logits(leaf).to(losses.dtype)
            each = F.cross_entropy(logits, targets.labels[part], reduction="none")
            if gradient:
                weighted = (each * targets.shares[part]).sum()
                (upstream[part],) = torch.autograd.grad(weighted, leaf)
        losses[part] = each.detach()
    shared = losses * targets.shares
    return losses.new_zeros(targets.passages).index_add(0, targets.owners, shared), upstream


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
