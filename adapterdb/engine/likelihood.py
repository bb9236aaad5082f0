"""How likely texts are under the model as it acts: options of a choice, and running text.

Semantics, for a prompt x, a continuation y of T tokens and a mixture:

    nats(y) = - sum_t log p(y_t | x, y_<t),  under the base model changed by the mixture

The stop token is not counted. Choice by likelihood takes the option with the lowest mean over its
tokens (Retrievable Gradient's first generation); perplexity is ``exp`` of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.answers import Mixture
from adapterdb.engine.plan import Plan
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.engine.steps import left_padded
from adapterdb.errors import InvalidInput
from adapterdb.records import Record

ROW_TOKENS = 16_384  # in one forward; more rows than fit are computed in several


@dataclass(frozen=True)
class Likelihood(Record):
    """Negative log-likelihood of a text.

    Args:
        nats: summed over its tokens.
        tokens: how many, at least 1.
    """

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """``exp(mean)``."""
        return math.exp(self.mean)


class Row(NamedTuple):
    """One row of a batch: what was read, what is said then, and what acts."""

    prompt: tuple[int, ...]
    said: tuple[int, ...]
    mixture: Mixture


def log_probabilities(
    runtime: Runtime, rows: Sequence[Row], registered: Mapping[str, Registered]
) -> list[Tensor]:
    """For each row ``(T,)`` float64, on the CPU: log-probability of every token of ``said``.

    Args:
        rows: in any order; batched by length. ``prompt`` and ``said`` have at least one token.
        registered: kind and place of every delta in the mixtures.
    """
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].said))
    for part in _parts(order, rows, len(runtime.pool.rows)):
        forward = _forward(runtime, [rows[i] for i in part], registered)
        for i, values in zip(part, forward, strict=True):
            found[i] = values
    return found


class Scorer:
    """Likelihoods under one runtime; takes its lock."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def continuations(
        self, plans: Sequence[Plan], options: Sequence[Sequence[str]]
    ) -> list[list[Likelihood]]:
        """Of each plan's options, as answers to its prompt.

        Args:
            plans: what is read and what acts.
            options: texts for each plan.

        Raises:
            InvalidInput: for an option without text, or one too long for the base model.
        """
        encoder = self.runtime.base.encoder
        rows: list[Row] = []
        for plan, texts in zip(plans, options, strict=True):
            for text in texts:
                said = tuple(encoder.text(text))
                if not said:
                    raise InvalidInput(f"the option {text!r} of {plan.question!r} has no text")
                if len(plan.prompt) + len(said) > encoder.max_length:
                    raise InvalidInput(
                        f"the option {text[:40]!r} needs {len(said)} tokens after a prompt of"
                        f" {len(plan.prompt)}; the base model takes {encoder.max_length} in all"
                    )
                rows.append(Row(plan.prompt, said, plan.mixture))
        registered = {i: known for plan in plans for i, known in plan.registered.items()}
        found = iter(self._likelihoods(rows, registered))
        return [[next(found) for _ in texts] for texts in options]

    def texts(
        self,
        texts: Sequence[tuple[str, str]],
        mixtures: Sequence[Mixture],
        registered: Mapping[str, Registered],
    ) -> list[Likelihood]:
        """Of running texts, every token after the first; cut to what the base model takes.

        Args:
            texts: title (or empty) and text.
            mixtures: what acts on each.
        """
        encoder, rows = self.runtime.base.encoder, []
        for (title, text), mixture in zip(texts, mixtures, strict=True):
            ids = tuple(encoder.plain(title, text))
            if len(ids) < 2:
                raise InvalidInput(f"the text {text!r} is too short to be scored")
            rows.append(Row(ids[:1], ids[1:], mixture))
        return self._likelihoods(rows, registered)

    def _likelihoods(
        self, rows: Sequence[Row], registered: Mapping[str, Registered]
    ) -> list[Likelihood]:
        found = log_probabilities(self.runtime, rows, registered)
        return [Likelihood(-float(values.sum()), len(values)) for values in found]


def _parts(order: Sequence[int], rows: Sequence[Row], slots: int) -> Iterator[list[int]]:
    """Runs of rows, shortest first, that fit one forward and the slots for their deltas."""
    part: list[int] = []
    deltas = 0
    for i in order:
        length = len(rows[i].prompt) + len(rows[i].said)
        mine = len(rows[i].mixture.parts)
        if part and ((len(part) + 1) * length > ROW_TOKENS or deltas + mine > slots):
            yield part
            part, deltas = [], 0
        part.append(i)
        deltas += mine
    if part:
        yield part


def _forward(
    runtime: Runtime, rows: Sequence[Row], registered: Mapping[str, Registered]
) -> list[Tensor]:
    device = runtime.base.device
    # padded on the left, so that all that is said ends in the last column
    ids, mask = left_padded([[*row.prompt, *row.said[:-1]] for row in rows], device)
    longest = max(len(row.said) for row in rows)
    with (
        runtime.acting([row.mixture for row in rows], registered) as model,
        torch.inference_mode(),
    ):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=torch.arange(-longest, 0, device=device),
        ).logits[:, -longest:]
        found = []
        for row, scores in zip(rows, logits, strict=True):
            wanted = torch.tensor(row.said, device=device)[:, None]
            chosen = scores[-len(row.said) :].float().log_softmax(-1).gather(-1, wanted)
            found.append(chosen[:, 0].double().cpu())
    return found
