"""A part of the vocabulary for one batch: a softmax over a few thousand words, not thirty.

With 22 million parameters of which half are the embedding, the output layer and its gradient cost
more than the transformer. Every id the batch holds and the commonest words are in the part for
certain; a uniform draw stands for all others, its share of the partition sum scaled up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FREQUENT = 2000  # lowest word ids of the uncased vocabulary are its commonest words
DRAWN = 1000
_FIRST_WORD = 996  # ids below are special, unused, and rare marks


class Vocabulary:
    """Token ids in use, and where each is among them.

    Attributes:
        ids: `[V]` int64, the part in use.

    Args:
        needed: ids that must be there, of any shape.
        size: of the whole vocabulary.
        frequent: how many of the commonest words are there for certain.
        drawn: how many of the others are.
    """

    def __init__(
        self, needed: Tensor, size: int, frequent: int = FREQUENT, drawn: int = DRAWN
    ) -> None:
        certain = torch.zeros(size, dtype=torch.bool)
        certain[_FIRST_WORD : _FIRST_WORD + frequent] = True
        certain[needed.flatten().cpu()] = True
        sure, rest = certain.nonzero()[:, 0], (~certain).nonzero()[:, 0]
        some = rest[torch.randperm(len(rest))[:drawn]]
        self.ids = torch.cat([sure, some]).to(needed.device)
        places = torch.zeros(size, dtype=torch.long)
        places[torch.cat([sure, some])] = torch.arange(len(sure) + len(some))
        self._places = places.to(needed.device)
        shift = torch.zeros(len(self.ids))
        shift[len(sure) :] = math.log(len(rest) / max(1, len(some)))
        self._shift = shift.to(needed.device)

    def local(self, ids: Tensor) -> Tensor:
        """Places of needed ids in `ids`, shape kept."""
        return self._places[ids]

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy `[M]` of needed ids `[M]`, from the part's logits `[M, V]` in float32."""
        return functional.cross_entropy(logits + self._shift, self.local(targets), reduction="none")

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Logarithms `[M, V]` of what the part's entries have of the whole distribution."""
        return (logits + self._shift).log_softmax(-1)
