"""Losses of meta-training: the inner step, and the answer loss behind it.

    g_i    = d/d theta  mean CE of passage i under (model, theta)          rows [G, P]
    theta' = theta - alpha * (weights @ g)                                 rows [G, P]

differentiable in theta, alpha and the model. Devices and dtypes are the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recipes.mini.network import Decoder
from recipes.mini.tasks import Padded
from recipes.mini.vocabulary import Vocabulary


def gradients(
    decoder: Decoder,
    rows: Tensor,
    docs: Padded,
    vocabulary: Vocabulary | None,
    second_order: bool,
) -> Tensor:
    """Each passage's gradient of its mean cross-entropy at its row; `[G, P]` float32.

    Args:
        decoder: the model.
        rows: `[G, P]`, the same theta in every row, part of a graph or requiring gradient.
        docs: G passages.
        vocabulary: the part the softmax is over, or None for all.
        second_order: keep the graph, to differentiate the result.
    """
    states = label_states(decoder, decoder.lower(docs.ids), docs, rows)
    loss = (losses(decoder, states, docs, vocabulary) * docs.row_weights).sum()
    (found,) = torch.autograd.grad(loss, rows, create_graph=second_order)
    return found


def label_states(
    decoder: Decoder, below: Tensor, batch: Padded, rows: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Hidden states `[M, H]` behind the last layer at a batch's labels, given `decoder.lower`'s."""
    return decoder.upper(below, rows, batch.kept, dropout)[batch.rows, batch.slots]


def losses(
    decoder: Decoder, states: Tensor, batch: Padded, vocabulary: Vocabulary | None = None
) -> Tensor:
    """Cross-entropy `[M]` at the labels of a batch, given their hidden states `[M, H]`."""
    logits = decoder.logits(states, vocabulary)
    if vocabulary is None:
        return functional.cross_entropy(logits, batch.targets, reduction="none")
    return vocabulary.losses(logits, batch.targets)


def answer_loss(
    decoder: Decoder,
    batch: Padded,
    rows: Tensor | None,
    vocabulary: Vocabulary | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over a batch's labels; scalar.

    Args:
        decoder: the model.
        batch: N sequences, N / G for each row.
        rows: `[G, P]`, or None for the base model.
        vocabulary: the part the softmax is over, or None for all.
        dropout: rate of the upper layers' branches.
    """
    states = label_states(decoder, decoder.lower(batch.ids), batch, rows, dropout)
    return losses(decoder, states, batch, vocabulary).mean()


def drift(
    decoder: Decoder, batch: Padded, rows: Tensor, labels: int, vocabulary: Vocabulary
) -> Tensor:
    """KL of the base model's next token from the adapted one's, on text unrelated to the rows.

    Args:
        decoder: the model.
        batch: G documents.
        rows: `[G, P]`.
        labels: positions drawn at random, of all in the batch.
        vocabulary: the part the distributions are over.
    """
    chosen = torch.randperm(len(batch.rows), device=batch.rows.device)[:labels]
    below = decoder.lower(batch.ids)
    with torch.no_grad():
        before = decoder.logits(label_states(decoder, below, batch, None)[chosen], vocabulary)
        base = vocabulary.log_probabilities(before)
    after = decoder.logits(label_states(decoder, below, batch, rows)[chosen], vocabulary)
    adapted = vocabulary.log_probabilities(after)
    return functional.kl_div(adapted, base, reduction="batchmean", log_target=True)
