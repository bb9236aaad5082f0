"""The decode loop: prompts of different lengths to answers, greedy or sampled, token by token.

All rows of a batch speak in step. Each row stops by its own rules and samples from its own
generator, so an answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import Generation
from adapterdb.engine.steps import Steps, steps_for
from adapterdb.prompts import PromptEncoder

KEEP = 0.6  # share of live rows at which the batch is made smaller


class Said(NamedTuple):
    """A token, and its natural log-probability under what acted (before any temperature)."""

    token: int
    logprob: float


@dataclass(frozen=True)
class StopRules:
    """When an answer ends.

    Args:
        ids: tokens that end it and are not part of it.
        texts: texts that end it and are not part of it (the token they come in is yielded).
        to_text: token ids to text.
    """

    ids: frozenset[int]
    texts: tuple[str, ...]
    to_text: Callable[[Sequence[int]], str]

    def text(self, said: Sequence[int]) -> str:
        """The answer in ``said``: stripped, and cut where a stop text begins."""
        cut = self.cut(said)
        return (self.to_text(said) if cut is None else cut).strip()

    def cut(self, said: Sequence[int]) -> str | None:
        """What precedes the first stop text, or None while there is none after some words."""
        text = self.to_text(said).lstrip()
        ends = [text.index(stop) for stop in self.texts if stop in text]
        return text[: min(ends)] if ends else None


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    generation: Generation | Sequence[Generation],
    stops: StopRules,
    max_tokens: int | Sequence[int],
    *,
    steps: Steps | None = None,
    on_keep: Callable[[Tensor], None] | None = None,
) -> Iterator[list[Said | None]]:
    """Yield one step at a time: for each prompt what it says next, or None once it has ended.

    Args:
        model: a transformers causal model, acting with whatever it acts with.
        prompts: token ids, none empty.
        generation: temperature, top_p, seed; of all rows or of each.
        stops: when answers end; a token of ``stops.ids`` is not yielded.
        max_tokens: no answer gets longer; of all rows or of each.
        steps: the forwards; None takes those that suit the model's device.
        on_keep: told when only some rows of the model's batch go on, int64 indices of the present
            ones; needed where what acts differs by row. None: ended rows are computed to the end.
    """
    count = len(prompts)
    each = [generation] * count if isinstance(generation, Generation) else list(generation)
    most = [max_tokens] * count if isinstance(max_tokens, int) else list(max_tokens)
    samplers = [_Sampler(one) if one.temperature else None for one in each]
    steps = steps or steps_for(model, max(most))
    said: list[list[int]] = [[] for _ in prompts]
    rows = list(range(count))  # those in the model's batch
    live = set(rows)
    logits = steps.prompt(prompts)
    while live:
        found = dict(zip(rows, _choices(logits, [samplers[row] for row in rows]), strict=True))
        step: list[Said | None] = [None] * count
        for row in sorted(live):
            if found[row].token in stops.ids:
                live.discard(row)
                continue
            step[row] = found[row]
            said[row].append(found[row].token)
            ended = bool(stops.texts) and stops.cut(said[row]) is not None
            if ended or len(said[row]) >= most[row]:
                live.discard(row)
        if any(one is not None for one in step):
            yield step
        if live and on_keep is not None and len(live) <= KEEP * len(rows):
            kept = torch.tensor([i for i, row in enumerate(rows) if row in live])
            if steps.keep(kept):
                on_keep(kept)
                rows = [rows[i] for i in kept.tolist()]
        if live:
            logits = steps.step(torch.tensor([found[row].token for row in rows]))


def greedy_answers(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    rows: Tensor | None,
    prompts: Sequence[Sequence[int]],
) -> list[str]:
    """The greedy answers to ``prompts`` under factor rows ``(n, P)``, or the base model's.

    For programs that hold rows of their own; questions to a home go through ``answer``.
    """
    ids, texts = encoder.stops()
    stops = StopRules(ids, texts, encoder.decode)
    said: list[list[int]] = [[] for _ in prompts]
    with adapted.using_rows(rows) as model:
        for step in decode(model, prompts, Generation(), stops, encoder.prompts.max_new_tokens):
            for mine, one in zip(said, step, strict=True):
                if one is not None:
                    mine.append(one.token)
    return [stops.text(mine) for mine in said]


def _choices(logits: Tensor, samplers: Sequence[_Sampler | None]) -> list[Said]:
    """The next token of every row, from logits ``(B, V)`` float32."""
    top, tokens = logits.max(dim=-1)
    norm = logits.logsumexp(dim=-1)
    greedy = zip(tokens.tolist(), (top - norm).tolist(), strict=True)
    found = [Said(token, logprob) for token, logprob in greedy]
    for row, sampler in enumerate(samplers):
        if sampler is not None:
            token = sampler(logits[row])
            found[row] = Said(token, float(logits[row, token] - norm[row]))
    return found


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
