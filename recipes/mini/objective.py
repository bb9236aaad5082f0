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

FREQUENT = 2000  # lowest word ids of the uncased vocabulary are its commonest words
SAMPLED = 1000
_FIRST_WORD = 996  # ids below are special, unused, and rare marks


def gradients(
    decoder: Decoder, rows: Tensor, docs: Padded, vocabulary: Tensor | None, second_order: bool
) -> Tensor:
    """Each passage's gradient of its mean cross-entropy at its row; `[G, P]` float32.

    Args:
        decoder: the model.
        rows: `[G, P]`, the same theta in every row, part of a graph or requiring gradient.
        docs: G passages.
        vocabulary: token ids of the softmax from `sample_vocabulary`, or None for all.
        second_order: keep the graph, to differentiate the result.
    """
    hidden = decoder.upper(decoder.lower(docs.ids), rows)
    loss = (losses(decoder, hidden, docs, vocabulary) * docs.row_weights).sum()
    (found,) = torch.autograd.grad(loss, rows, create_graph=second_order)
    return found


def losses(
    decoder: Decoder, hidden: Tensor, batch: Padded, vocabulary: Tensor | None = None
) -> Tensor:
    """Cross-entropy `[M]` at the labels of a batch, given its hidden states `[N, T, H]`."""
    logits = decoder.logits(hidden[batch.rows, batch.places], vocabulary)
    if vocabulary is None:
        return functional.cross_entropy(logits, batch.targets, reduction="none")
    # A uniformly drawn rest stands for all the rest: its share of the partition sum is scaled up.
    certain = len(vocabulary) - SAMPLED
    scale = (decoder.model.config.vocab_size - certain) / SAMPLED
    shift = torch.zeros(len(vocabulary), device=logits.device)
    shift[certain:] = torch.tensor(scale).log()
    targets = torch.searchsorted(vocabulary[:certain].contiguous(), batch.targets)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return (logits + shift).logsumexp(-1) - chosen


def sample_vocabulary(targets: Tensor, size: int) -> Tensor:
    """Token ids: all targets and the frequent words, sorted, then `SAMPLED` others at random.

    Args:
        targets: `[M]` int64.
        size: V, of the whole vocabulary.
    """
    certain = torch.zeros(size, dtype=torch.bool)
    certain[_FIRST_WORD : _FIRST_WORD + FREQUENT] = True
    certain[targets.cpu()] = True
    rest = (~certain).nonzero()[:, 0]
    drawn = rest[torch.randint(len(rest), (SAMPLED,))]
    return torch.cat([certain.nonzero()[:, 0], drawn]).to(targets.device)


def answer_loss(decoder: Decoder, batch: Padded, rows: Tensor | None) -> Tensor:
    """Mean cross-entropy over a batch's labels; scalar.

    Args:
        decoder: the model.
        batch: N sequences, N / G for each row.
        rows: `[G, P]`, or None for the base model.
    """
    hidden = decoder.upper(decoder.lower(batch.ids), rows)
    return losses(decoder, hidden, batch).mean()


def drift(decoder: Decoder, batch: Padded, rows: Tensor, labels: int) -> Tensor:
    """KL of the base model's next token from the adapted one's, on text unrelated to the rows.

    Args:
        decoder: the model.
        batch: G documents.
        rows: `[G, P]`.
        labels: positions drawn at random, of all in the batch.
    """
    chosen = torch.randperm(len(batch.rows), device=batch.rows.device)[:labels]
    where = batch.rows[chosen], batch.places[chosen]
    below = decoder.lower(batch.ids)
    with torch.no_grad():
        base = decoder.logits(decoder.upper(below, None)[where]).log_softmax(-1)
    adapted = decoder.logits(decoder.upper(below, rows)[where]).log_softmax(-1)
    return functional.kl_div(adapted, base, reduction="batchmean", log_target=True)
