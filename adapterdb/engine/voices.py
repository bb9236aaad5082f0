"""How one prompt's answer comes about, step by step: by one voice, or by the best of several beams.

A voice has some rows of the model's batch; from their logits it says which of them go on, each
with which token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from adapterdb.answers import Generation
from adapterdb.engine.stops import StopRules


class Said(NamedTuple):
    """A token, and its natural log-probability under what acted (before any temperature)."""

    token: int
    logprob: float


class Voice(Protocol):
    """What says one answer."""

    said: list[Said]
    """The answer as far as it is settled, without the token that ends it."""

    def step(self, logits: Tensor, likeliest: Sequence[Said]) -> list[tuple[int, int]]:
        """Which of its rows go on, each with a token; nothing once the answer has ended.

        Args:
            logits: ``(B', V)`` float32, of its rows; one row at first.
            likeliest: the likeliest token of each row.
        """


def voice(generation: Generation, stops: StopRules, max_tokens: int) -> Voice:
    """What answers as ``generation`` says, in at most ``max_tokens`` tokens."""
    if (generation.beams or 1) > 1:
        return Beams(generation, stops, max_tokens)
    return Single(generation, stops, max_tokens)


class Single:
    """The likeliest token each time, or one drawn from its own seeded generator."""

    def __init__(self, generation: Generation, stops: StopRules, max_tokens: int) -> None:
        self.said: list[Said] = []
        self.stops, self.max_tokens = stops, max_tokens
        self._sampler = _Sampler(generation) if generation.temperature else None

    def step(self, logits: Tensor, likeliest: Sequence[Said]) -> list[tuple[int, int]]:
        """See ``Voice``."""
        found = likeliest[0]
        if self._sampler is not None:
            token = self._sampler(logits[0])
            found = Said(token, float(logits[0, token] - logits[0].logsumexp(-1)))
        if found.token in self.stops.ids:
            return []
        self.said.append(found)
        ended = self.stops.end([one.token for one in self.said])
        return [] if ended or len(self.said) >= self.max_tokens else [(0, found.token)]


class _Ended(NamedTuple):
    score: float
    said: tuple[Said, ...]


class Beams:
    """Beam search: the likeliest whole answer among those whose beginnings stay likely.

    ``beams`` beginnings go on; an answer's score is its log-probability, end included, over its
    length to the power of ``length_penalty`` (Wu et al., 2016, without the constant). It ends when
    as many answers have ended, and no beginning scores better as it is than the worst of them. The
    same answers as transformers' ``generate(num_beams=...)`` with its defaults.
    """

    def __init__(self, generation: Generation, stops: StopRules, max_tokens: int) -> None:
        self.said: list[Said] = []
        penalty = generation.length_penalty
        self.width, self.penalty = generation.beams or 1, 1.0 if penalty is None else penalty
        self.stops, self.max_tokens = stops, max_tokens
        self._open: list[tuple[Said, ...]] = [()]
        self._sums = [0.0]
        self._ended: list[_Ended] = []

    def step(self, logits: Tensor, likeliest: Sequence[Said]) -> list[tuple[int, int]]:
        """See ``Voice``."""
        natural = logits.log_softmax(-1)
        sums = natural.double() + natural.new_tensor(self._sums, dtype=torch.float64)[:, None]
        count = min((1 + max(1, len(self.stops.ids))) * self.width, sums.numel())
        best, places = sums.flatten().topk(count)
        length = len(self._open[0]) + 1
        going: list[tuple[float, int, tuple[Said, ...]]] = []
        for rank, (total, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            row, token = divmod(place, logits.shape[-1])
            whole = (*self._open[row], Said(token, float(natural[row, token])))
            stopped = token in self.stops.ids
            if stopped or length >= self.max_tokens or self.stops.end([s.token for s in whole]):
                if rank < self.width:
                    kept = whole[:-1] if stopped else whole
                    self._ended.append(_Ended(total / length**self.penalty, kept))
            elif len(going) < self.width:
                going.append((total, row, whole))
        self._ended = sorted(self._ended, key=lambda e: -e.score)[: self.width]
        full = len(self._ended) == self.width
        if not going or (full and going[0][0] / length**self.penalty <= self._ended[-1].score):
            self.said = list(self._ended[0].said)
            return []
        self._open = [whole for _, _, whole in going]
        self._sums = [total for total, _, _ in going]
        return [(row, whole[-1].token) for _, row, whole in going]


class _Sampler:
    """Next token ids of one answer, from its own seeded generator."""

    def __init__(self, generation: Generation) -> None:
        self.temperature, self.top_p = generation.temperature, generation.top_p
        self._generator = torch.Generator().manual_seed(generation.seed)

    def __call__(self, logits: Tensor) -> int:
        below = logits.cpu() - logits.max().cpu()  # no temperature is too small to divide these by
        chances = (below.double() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = chances.sort(descending=True)
            chances[order[ordered.cumsum(-1) - ordered >= self.top_p]] = 0
        # in the order of the tokens: where rounding swaps two of a rank, what is drawn stays
        return int(torch.multinomial(chances, 1, generator=self._generator))
