"""Losses and gradients of rows that can be differentiated again: what meta-training is made of.

    L_n(rows)          mean (weighted) cross entropy of passage n's labelled tokens under row n
    g_n = dL_n/drows   with its own graph, so that L(theta - alpha * g) has a gradient for theta and
                       alpha (Meta-PG), and for the weights of tokens (CaMeLS)

Everything here keeps a graph; ``bank`` is the same without, and much lighter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapterdb.adapted_model import AdaptedModel
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import pad, targets_of
from adapterdb.training.objective import TokenSequence

FREQUENT, OTHERS = 2000, 1000  # of a sampled vocabulary


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention whose gradient has a gradient: the fused kernels have none."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def passage_losses(
    adapted: AdaptedModel,
    rows: Tensor | None,
    data: Sequence[Sequence[TokenSequence]],
    *,
    weights: Tensor | None = None,
    vocabulary: Vocabulary | None = None,
) -> Tensor:
    """The loss of each passage's sequences under its row, differentiable in rows and weights.

    Args:
        adapted: the model.
        rows: ``(N, P)``, or None for the base model alone.
        data: N lists of sequences, as many in each.
        weights: ``(n,)`` of the labelled tokens in order; None takes the sequences' own, or 1.
        vocabulary: of the softmax; None means all words.

    Returns:
        ``(N,)`` float32 (float64 for a float64 model), nats per token.
    """
    flat = [sequence for sequences in data for sequence in sequences]
    device = next(adapted.model.parameters()).device
    ids, mask, labels = pad(flat, device)
    with adapted.using_rows(rows) as model, twice_differentiable():
        split = SplitModel(model)
        hidden = split.hidden_states(ids, mask)[labels != -100]
        targets = targets_of(labels, len(data))
        if vocabulary is None:
            each = F.cross_entropy(_wide(split.logits(hidden)), targets.labels, reduction="none")
        else:
            each = vocabulary.cross_entropy(split, hidden, targets.labels)
    if weights is None:
        weights = label_weights(flat, device)
    shared = each * targets.shares if weights is None else each * targets.shares * weights
    return each.new_zeros(targets.passages).index_add(0, targets.owners, shared)


def row_gradients(
    adapted: AdaptedModel,
    rows: Tensor,
    data: Sequence[Sequence[TokenSequence]],
    *,
    weights: Tensor | None = None,
    vocabulary: Vocabulary | None = None,
    create_graph: bool = True,
) -> Tensor:
    """Each passage's gradient ``(N, P)`` of its own loss at its own row, with a graph of its own.

    Args:
        rows: ``(N, P)``; part of a graph, or requiring a gradient.
        create_graph: False for a gradient that ends there.
    """
    with twice_differentiable():
        loss = passage_losses(adapted, rows, data, weights=weights, vocabulary=vocabulary)
        (gradient,) = torch.autograd.grad(loss.sum(), rows, create_graph=create_graph)
    return gradient


def label_weights(sequences: Sequence[TokenSequence], device: torch.device) -> Tensor | None:
    """The sequences' own weights of their labelled tokens ``(n,)``, in order; None if all are 1."""
    if all(sequence.weights is None for sequence in sequences):
        return None
    found: list[float] = []
    for sequence in sequences:
        each = sequence.weights or (1.0,) * len(sequence.ids)
        found += each[max(sequence.loss_from, 1) :]
    return torch.tensor(found, device=device)


class Vocabulary:
    """A sampled softmax: some words for certain, a few others that stand for all the rest.

    The others are drawn uniformly and count as many times as they are fewer than the rest they
    stand for, so that the partition sum is right in expectation.

    Args:
        labels: int64 ``(n,)``, tokens that are certain: the labels.
        frequent: int64 ``(f,)``, more that are certain.
        size: V, of the whole vocabulary.
        others: how many are drawn.
    """

    def __init__(self, labels: Tensor, frequent: Tensor, size: int, others: int = OTHERS) -> None:
        certain = torch.zeros(size, dtype=torch.bool, device=labels.device)
        certain[labels] = True
        certain[frequent] = True
        self._certain = certain.nonzero()[:, 0]
        rest = (~certain).nonzero()[:, 0]
        drawn = rest[torch.randint(len(rest), (min(others, len(rest)),), device=labels.device)]
        self.words = torch.cat([self._certain, drawn])
        self._shift = torch.zeros(len(self.words), device=labels.device)
        if len(drawn):
            self._shift[len(self._certain) :] = torch.tensor(len(rest) / len(drawn)).log()

    def cross_entropy(self, split: SplitModel, hidden: Tensor, labels: Tensor) -> Tensor:
        """Of ``hidden (n, H)`` saying ``labels (n,)``; ``(n,)`` float32."""
        logits = _wide(split.logits(hidden, self.words))
        places = torch.searchsorted(self._certain, labels)
        return (logits + self._shift).logsumexp(-1) - logits.gather(1, places[:, None])[:, 0]


def frequent_words(sequences: Sequence[TokenSequence], size: int, n: int = FREQUENT) -> Tensor:
    """The ``n`` commonest token ids of some sequences, int64 ``(n,)`` or fewer."""
    ids = torch.tensor([i for sequence in sequences for i in sequence.ids])
    counts = torch.bincount(ids, minlength=size)
    best = counts.argsort(descending=True)[:n]
    return best[counts[best] > 0]


def _wide(logits: Tensor) -> Tensor:
    """In float32, or float64 where the model is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
