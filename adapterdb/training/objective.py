"""A passage to the token sequences its delta is fitted to, and the loss of each passage.

PRAG's training set (arXiv 2501.15915, section 3.1): of n question-answer pairs the first
(n + 1) // 2 appear twice, with the passage and with its rewrite in the prompt; the others appear
without any passage. Three pairs give five sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdb.errors import Rejected
from adapterdb.prompts import PromptEncoder
from adapterdb.training.head import SplitModel
from adapterdb.training.recipes import Recipe

CHUNK = 128  # positions whose logits exist at once: 16 MB of float32 for 30,000 words


@dataclass(frozen=True)
class TrainingPassage:
    """What a delta is made from.

    Args:
        title: of its document, or empty.
        text: of the passage.
        rewrite: a paraphrase, for ``prag``.
        qa: question and answer pairs, for ``prag``.
    """

    title: str
    text: str
    rewrite: str = ""
    qa: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, and from which position on they carry loss (0: all but the first)."""

    ids: tuple[int, ...]
    loss_from: int = 0


def sequences_of(
    passage: TrainingPassage, recipe: Recipe, encoder: PromptEncoder
) -> list[TokenSequence]:
    """The sequences of one passage, in the order they are trained on.

    Raises:
        Rejected: code ``no_augmentation`` if ``prag`` finds no rewrite or Q&A; code ``empty`` if
            there is no token to learn from.
    """
    if recipe.sequences == "prag":
        found = _prag(passage, recipe, encoder)
    else:
        found = [TokenSequence(tuple(encoder.document(passage.title, passage.text)))]
    if any(len(sequence.ids) < 2 for sequence in found):
        raise Rejected("the passage has no token to learn from", code="empty")
    return found


def _prag(passage: TrainingPassage, recipe: Recipe, encoder: PromptEncoder) -> list[TokenSequence]:
    if not passage.rewrite or not passage.qa:
        raise Rejected(
            "recipe 'prag' needs a rewrite and question-answer pairs with the document",
            code="no_augmentation",
            hint="give fields 'rewrite' and 'qa' in JSONL, or use recipe 'rg'",
        )
    with_text = (len(passage.qa) + 1) // 2
    prompts: list[tuple[list[int], str]] = []
    for i, (question, answer) in enumerate(passage.qa):
        room = encoder.prompts.max_new_tokens
        if i < with_text:
            for text in (passage.text, passage.rewrite):
                ids, _ = encoder.context(question, [(passage.title, text)], room)
                prompts.append((ids, answer))
        else:
            prompts.append((encoder.blind(question), answer))
    sequences = []
    for ids, answer in prompts:
        whole = (*ids, *encoder.answer(answer))
        sequences.append(TokenSequence(whole, len(ids) if recipe.mask == "answer" else 0))
    return sequences


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
