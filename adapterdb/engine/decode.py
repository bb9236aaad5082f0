"""The decode loop: prompts of different lengths to answers, token by token.

All rows of a batch speak in step. Each prompt has a voice that stops by its own rules and samples
from its own generator, or keeps several beams, so an answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import Generation
from adapterdb.engine.steps import Steps, steps_for
from adapterdb.engine.stops import StopRules
from adapterdb.engine.voices import Said, Voice, voice
from adapterdb.prompts import PromptEncoder

KEEP = 0.6  # share of live rows at which the batch is made smaller


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
    """Yield one step at a time: for each prompt what it says next, or None.

    An answer of one voice comes as it is said; one of several beams when it is whole.

    Args:
        model: a transformers causal model, acting with whatever it acts with.
        prompts: token ids, none empty.
        generation: temperature, top_p, seed, beams (None: 1); of all rows or of each.
        stops: when answers end; a token of ``stops.ids`` is not yielded.
        max_tokens: no answer gets longer; of all rows or of each.
        steps: the forwards; None takes those that suit the model's device. With beams they must
            be able to keep rows, and the same one more than once.
        on_keep: told when other rows of the model's batch go on, int64 indices of the present
            ones, one more than once where beams branch; needed where what acts differs by row.
            None: ended rows are computed to the end.
    """
    count = len(prompts)
    each = [generation] * count if isinstance(generation, Generation) else list(generation)
    most = [max_tokens] * count if isinstance(max_tokens, int) else list(max_tokens)
    branching = any((one.beams or 1) > 1 for one in each)
    steps = steps or steps_for(model, max(most), reorders=branching)
    voices = [voice(one, stops, n) for one, n in zip(each, most, strict=True)]
    told = [0] * count
    rows = list(range(count))  # the prompt that each row of the model's batch belongs to
    live = set(rows)
    logits = steps.prompt(prompts)
    while live:
        likeliest = _likeliest(logits)
        going: list[tuple[int, int]] = []  # row and its next token, a prompt's rows together
        for prompt, group in groupby(range(len(rows)), rows.__getitem__):
            mine = list(group)
            if prompt in live:
                some = slice(mine[0], mine[-1] + 1)
                next_tokens = voices[prompt].step(logits[some], likeliest[some])
                going += [(mine[row], token) for row, token in next_tokens]
                if not next_tokens:
                    live.discard(prompt)
            if prompt not in live:
                going += [(row, 0) for row in mine]
        yield from _news(voices, told, final=not live)
        kept = [(row, token) for row, token in going if rows[row] in live]
        if branching or (on_keep is not None and len(kept) <= KEEP * len(rows)):
            chosen = torch.tensor([row for row, _ in kept], dtype=torch.int64)
            before, going = rows, kept if live and steps.keep(chosen) else going
            rows = [before[row] for row, _ in going]
            if on_keep is not None and rows != before:
                on_keep(chosen)
        if live:
            logits = steps.step(torch.tensor([token for _, token in going]))


def _news(voices: Sequence[Voice], told: list[int], final: bool) -> Iterator[list[Said | None]]:
    """What was said since ``told`` (brought up to date), in steps: one, or if ``final`` all."""
    while any(len(one.said) > had for one, had in zip(voices, told, strict=True)):
        step: list[Said | None] = []
        for at, one in enumerate(voices):
            step.append(one.said[told[at]] if len(one.said) > told[at] else None)
            told[at] += step[-1] is not None
        yield step
        if not final:
            return


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


def _likeliest(logits: Tensor) -> list[Said]:
    """The likeliest next token of every row, from logits ``(B, V)`` float32."""
    top, tokens = logits.max(dim=-1)
    norm = logits.logsumexp(dim=-1)
    found = zip(tokens.tolist(), (top - norm).tolist(), strict=True)
    return [Said(token, logprob) for token, logprob in found]
