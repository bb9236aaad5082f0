"""The decode loop: prompts of different lengths to answers, greedy or sampled, token by token.

Prompts are padded on the left so that all rows of a batch speak in step. Each row stops by its own
rules and samples from its own generator, so an answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import Generation
from adapterdb.prompts import PromptEncoder


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
    generation: Generation,
    stops: StopRules,
    max_tokens: int,
) -> Iterator[list[int | None]]:
    """Yield one step at a time: for each prompt its next token id, or None once it has ended.

    Args:
        model: a transformers causal model, acting with whatever it acts with.
        prompts: token ids, none empty.
        generation: temperature, top_p, seed.
        stops: when answers end; a token of ``stops.ids`` is not yielded.
        max_tokens: no answer gets longer.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    ids, mask = _left_pad(prompts, device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    samplers = [_Sampler(generation) for _ in prompts]
    said: list[list[int]] = [[] for _ in prompts]
    live = [True] * len(prompts)
    for _ in range(max_tokens):
        with torch.inference_mode():
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        logits = out.logits[:, -1].float()
        step: list[int | None] = [None] * len(prompts)
        for row, sampler in enumerate(samplers):
            token = sampler(logits[row]) if live[row] else None
            if token is None or token in stops.ids:
                live[row] = False
                continue
            step[row] = token
            said[row].append(token)
            live[row] = not stops.texts or stops.cut(said[row]) is None
        if any(token is not None for token in step):
            yield step
        if not any(live):
            return
        ids = torch.tensor([[token or 0] for token in step], device=device)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
        positions = positions[:, -1:] + 1


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
            for mine, token in zip(said, step, strict=True):
                if token is not None:
                    mine.append(token)
    return [stops.text(mine) for mine in said]


class _Sampler:
    """Next token ids of one answer, from its own seeded generator."""

    def __init__(self, generation: Generation) -> None:
        self.temperature, self.top_p = generation.temperature, generation.top_p
        self._generator = torch.Generator().manual_seed(generation.seed)

    def __call__(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        chances, order = (logits.cpu() / self.temperature).softmax(-1).sort(descending=True)
        keep = chances.cumsum(-1) - chances < self.top_p  # the smallest set reaching top_p
        drawn = torch.multinomial(chances * keep, 1, generator=self._generator)
        return int(order[drawn])


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 ``(B, T)``, padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
