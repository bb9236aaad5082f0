"""The modes a meta-init has to be compared with, on the same tasks, batched.

    direct      the question alone                    icl         with its passages in the prompt
    ft          the question under a task-tuned row   ft+icl      the same with the passages
    ftsimada    ft minus lr times the plain gradient of the passages: the step without meta-learning
    meta        theta' of the task's own passages     meta+icl    the same with the passages
    shift       theta' of another task's passages     random      of random gradients, equal norms

What an own delta brings over any delta is knowledge (own - shift), what any delta brings over none
is mode (shift - none). Generation and its scores lie above this layer and are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, get_args

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_number
from adapterdb.training.differentiable import passage_losses
from adapterdb.training.meta.inner_step import InnerStep, Passage, adapted_rows
from adapterdb.training.objective import TokenSequence
from adapterdb.training.start import Start, base_weight
from adapterdb.training.tasks import Task

Mode = Literal[
    "direct", "icl", "ft", "ft+icl", "ftsimada", "meta", "meta+icl", "shift", "random"
]  # fmt: skip
MODES: tuple[Mode, ...] = get_args(Mode)
_OF_START = ("meta", "meta+icl", "shift", "random")
_OF_FT = ("ft", "ft+icl", "ftsimada")


@dataclass(frozen=True)
class Answering:
    """Generation and its scores, which lie above this layer.

    Args:
        answer: rows ``(n, P)`` or None, and n prompts, to n answers.
        scores: name to what an answer is worth against accepted ones, best is highest.
    """

    answer: Callable[[Tensor | None, Sequence[Sequence[int]]], Sequence[str]]
    scores: Mapping[str, Callable[[str, Sequence[str]], float]]


@dataclass(frozen=True)
class ControlSettings:
    """What the modes are made with.

    Args:
        inner: how passages become a step; ``only_related`` and K are there.
        ftsimada_lr: of the plain step (Meta-PG: 2e-4).
        random_init: ``ftsimada`` from an untrained row instead of the task-tuned one.
        mixed: share of a task's K passages, the last ones, that are replaced by the next task's
            (ReGrad's noise).
        seed: of random gradients and of the untrained row.
        at_once: tasks in one forward.
    """

    inner: InnerStep = field(default_factory=InnerStep)
    ftsimada_lr: float = 2e-4
    random_init: bool = False
    mixed: float = 0.0
    seed: int = 0
    at_once: int = 16

    def __post_init__(self) -> None:
        check_number("controls: mixed", self.mixed, 0.0, 1.0)


@dataclass(frozen=True)
class ModeResult:
    """One mode on all tasks, in their order.

    Args:
        nll: mean loss of each task's answer tokens, nats.
        scores: of generated answers, by name; empty where none were generated.
    """

    nll: tuple[float, ...]
    scores: dict[str, tuple[float, ...]]

    def mean(self, measure: str) -> float:
        """The mean of ``nll`` or of a score."""
        return fmean(self.nll if measure == "nll" else self.scores[measure])


@dataclass(frozen=True)
class Gains:
    """The shift test: higher is better, nats for ``nll``."""

    knowledge: float
    mode: float


def run_controls(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    tasks: Sequence[Task],
    modes: Sequence[Mode],
    settings: ControlSettings,
    *,
    start: Start | None = None,
    ft: Tensor | None = None,
    answering: Answering | None = None,
) -> dict[Mode, ModeResult]:
    """Each mode on ``tasks``.

    Args:
        start: of ``meta``, ``meta+icl``, ``shift`` and ``random``.
        ft: row ``(P,)`` of ``ft``, ``ft+icl`` and, unless ``random_init``, ``ftsimada``.
        answering: generates and scores answers; None for losses only.

    Raises:
        InvalidInput: for no task, an unknown mode, a missing ``start`` or ``ft``, or tasks that
            all have the same passages where ``shift`` or ``mixed`` needs another.
    """
    if not tasks:
        raise InvalidInput("there is no task to run controls on")
    for mode in modes:
        if mode not in MODES:
            raise InvalidInput(f"mode {mode!r} is not one of {', '.join(MODES)}")
        needs_ft = mode in _OF_FT and not (mode == "ftsimada" and settings.random_init)
        if (needs_ft and ft is None) or (mode in _OF_START and start is None):
            what = "a task-tuned row (ft)" if needs_ft else "a start (theta, alpha)"
            raise InvalidInput(f"mode {mode!r} needs {what}")
    rows_of = _Rows(adapted, encoder, tasks, settings, start, ft)
    results: dict[Mode, ModeResult] = {}
    for mode in modes:
        nll: list[float] = []
        scores: dict[str, list[float]] = {name: [] for name in (answering or _NONE).scores}
        for first in range(0, len(tasks), settings.at_once):
            places = range(first, min(first + settings.at_once, len(tasks)))
            some = [tasks[i] for i in places]
            rows = rows_of(mode, places)
            prompts = [rows_of.prompt(mode, i) for i in places]
            nll += answer_nll(adapted, encoder, rows, prompts, some)
            if answering is not None:
                said = answering.answer(rows, prompts)
                for name, score in answering.scores.items():
                    pairs = zip(said, some, strict=True)
                    scores[name] += [score(text, task.answers) for text, task in pairs]
        results[mode] = ModeResult(tuple(nll), {k: tuple(v) for k, v in scores.items()})
    return results


def gains(results: Mapping[Mode, ModeResult], measure: str) -> Gains:
    """Knowledge gain (own - shift) and mode gain (shift - none) in ``nll`` or a score.

    Args:
        results: with ``meta``, ``shift`` and ``direct``.
    """
    sign = -1.0 if measure == "nll" else 1.0
    own, shift, none = (sign * results[m].mean(measure) for m in ("meta", "shift", "direct"))
    return Gains(own - shift, shift - none)


def answer_nll(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    rows: Tensor | None,
    prompts: Sequence[Sequence[int]],
    tasks: Sequence[Task],
) -> list[float]:
    """Mean loss of the answer tokens of each task after its prompt, nats, teacher forced.

    Args:
        rows: ``(n, P)``, one of each task; None for the base model.
    """
    data = []
    for prompt, task in zip(prompts, tasks, strict=True):
        whole = (*prompt, *encoder.answer(task.answer))
        data.append([TokenSequence(whole, len(prompt))])
    return [float(x) for x in passage_losses(adapted, rows, data).detach()]


def other_task(tasks: Sequence[Task], place: int) -> int:
    """Where the task lies whose passages are shown to task ``place`` by mistake: half the list
    further on, and on from there to one that shares no passage with it.

    Raises:
        InvalidInput: if every task shares one.
    """
    n, own = len(tasks), set(tasks[place].passages)
    for offset in range(n):
        found = (place + n // 2 + offset) % n
        if not own & set(tasks[found].passages):
            return found
    raise InvalidInput(
        f"every other task has a passage of task {tasks[place].id!r}",
        hint="shift and mixed need tasks about other passages",
    )


def random_like(gradients: Tensor, layout: DeltaLayout, generator: torch.Generator) -> Tensor:
    """Random rows whose every A and B has the norm of that in ``gradients (N, P)``."""
    drawn = torch.randn(gradients.shape, generator=generator).to(gradients)
    for i in range(len(layout.sites)):
        for part in (layout.a, layout.b):
            new, old = part(drawn, i).flatten(1), part(gradients, i).flatten(1)
            scaled = new * (old.norm(dim=1) / new.norm(dim=1))[:, None]
            part(drawn, i).copy_(scaled.view_as(part(drawn, i)))
    return drawn


class _Rows:
    """The row each mode gives each task, and the prompt."""

    def __init__(
        self,
        adapted: AdaptedModel,
        encoder: PromptEncoder,
        tasks: Sequence[Task],
        settings: ControlSettings,
        start: Start | None,
        ft: Tensor | None,
    ) -> None:
        self.adapted, self.encoder, self.tasks = adapted, encoder, tasks
        self.settings, self.start, self.ft = settings, start, ft

    def __call__(self, mode: Mode, places: range) -> Tensor | None:
        """Rows ``(n, P)`` of the tasks at ``places``, or None for the base model."""
        if mode in ("direct", "icl"):
            return None
        if mode in ("ft", "ft+icl"):
            assert self.ft is not None
            device = next(self.adapted.model.parameters()).device
            return self.ft.to(device).expand(len(places), -1).contiguous()
        if mode == "ftsimada":
            return self._stepped(places, self._plain())
        assert self.start is not None
        if mode == "shift":
            return self._stepped([other_task(self.tasks, i) for i in places], self.start)
        if mode == "random":
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + places[0])
            layout = self.adapted.layout
            return self._stepped(places, self.start, lambda g: random_like(g, layout, generator))
        return self._stepped(places, self.start)

    def prompt(self, mode: Mode, place: int) -> list[int]:
        """Token ids of the task's prompt: blind, or with its passages for ``icl``."""
        task = self.tasks[place]
        if not mode.endswith("icl"):
            return self.encoder.blind(task.question)
        room = max(self.encoder.prompts.max_new_tokens, len(self.encoder.answer(task.answer)))
        return self.encoder.context(task.question, self._passages(place), room)[0]

    def _plain(self) -> Start:
        if self.settings.random_init:
            layout = self.adapted.layout
            return base_weight(layout, seed=self.settings.seed, alpha=self.settings.ftsimada_lr)
        assert self.ft is not None
        return Start(self.ft, torch.full_like(self.ft, self.settings.ftsimada_lr))

    def _stepped(
        self,
        places: Sequence[int],
        start: Start,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        inner = self.settings.inner
        contexts = [inner.documents(self._passages(i), self.encoder) for i in places]
        return adapted_rows(
            self.adapted, contexts, start, inner, change=change, at_once=self.settings.at_once
        )

    def _passages(self, place: int) -> list[Passage]:
        """The passages of a task that are used, some replaced by another task's."""
        found = self.settings.inner.chosen(self.tasks[place])
        noise = round(self.settings.mixed * len(found))
        if noise:
            other = self.tasks[other_task(self.tasks, place)]
            found = [*found[:-noise], *self.settings.inner.chosen(other)[:noise]]
        return found


_NONE = Answering(lambda _rows, _prompts: [], {})
