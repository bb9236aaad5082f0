"""Meta-training of theta and alpha: one gradient step on a passage is to answer its questions.

Minimises ``objective`` over theta and alpha (Meta-PG; ReGrad, arXiv 2606.15734). The base
model is frozen, theta and alpha live outside it, and tasks are done many at a time, one row each.
Knows no database; the trained start is the caller's to keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput, Mismatch
from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder
from adapterdb.training.checkpoint import load_checkpoint, save_checkpoint
from adapterdb.training.differentiable import FREQUENT, OTHERS, Vocabulary, frequent_words
from adapterdb.training.meta.alpha import StepSizes
from adapterdb.training.meta.controls import Answering, ControlSettings, run_controls
from adapterdb.training.meta.objective import (
    Lesson,
    MetaInitSettings,
    distracted,
    lesson_of,
    outer_loss,
    units_of,
)
from adapterdb.training.schedule import Budget, Progress, check_finite, spread
from adapterdb.training.start import Start, base_weight
from adapterdb.training.tasks import Task

SAVE_S = 120.0  # a run that may be resumed is saved this often, and at every evaluation


@dataclass(frozen=True)
class MetaInitResult:
    """What a run has made.

    Args:
        start: the best theta and alpha, float32 on the CPU.
        curve: of every evaluation: step, minutes, loss since the last one, measures.
        best_step: the evaluation that ``start`` is of.
        settings: of the run.
        facts: steps, minutes, tasks, the start's fingerprint: what is worth keeping with it.
    """

    start: Start
    curve: tuple[dict[str, float], ...]
    best_step: int
    settings: MetaInitSettings
    facts: dict[str, Any]


def fresh_start(layout: DeltaLayout, settings: MetaInitSettings) -> Start:
    """base_weight of the seed, with B drawn of ``b_std`` and alpha ``init_alpha``."""
    start = base_weight(layout, seed=settings.seed, alpha=settings.init_alpha)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    for i in range(len(layout.sites)):
        if settings.b_std:
            layout.b(start.theta, i).normal_(0, settings.b_std, generator=generator)
    return start


def train_meta_init(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    settings: MetaInitSettings,
    *,
    start: Start | None = None,
    answering: Answering | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> MetaInitResult:
    """Train theta and alpha on ``tasks`` and keep what is best on ``held_out``.

    Whoever wants bfloat16 products calls it inside an autocast; theta, alpha, their gradients and
    the clipping are float32 all the same, and nothing is scaled.

    Args:
        held_out: tasks that are not trained on; empty keeps the last step.
        start: where to begin; None for a fresh one.
        answering: generates and scores, for ``keep_best_by = "f1"``.
        on_progress: called after every step; what it raises ends the run.
        checkpoint: where the run is saved, and resumed from if the file is there. A run of a
            fixed number of steps that was resumed gives bit for bit what it would have given.

    Raises:
        InvalidInput: for no task, a task in both sets, a missing ``answering``; code ``diverged``
            if the loss is no longer finite.
        Mismatch: if the checkpoint is of other settings, tasks or layout.
        Corrupt: if it can't be read.
    """
    _check(tasks, held_out, settings, answering)
    run = _Run(adapted, encoder, tasks, held_out, settings, start, answering)
    if checkpoint is not None:
        run.load(checkpoint)
    return run.train(on_progress, checkpoint)


class _Run:
    """A training run: parameters, optimizer, and where it stands."""

    def __init__(
        self,
        adapted: AdaptedModel,
        encoder: PromptEncoder,
        tasks: Sequence[Task],
        held_out: Sequence[Task],
        settings: MetaInitSettings,
        start: Start | None,
        answering: Answering | None,
    ) -> None:
        self.adapted, self.encoder, self.settings = adapted, encoder, settings
        self.held_out = spread(held_out, settings.evaluate_on)
        self.answering = answering
        device = next(adapted.model.parameters()).device
        begin = start or fresh_start(adapted.layout, settings)
        self.theta = nn.Parameter(begin.theta.to(device, copy=True))
        row = begin.alpha.to(device)
        self.alpha = StepSizes(adapted.layout, row, settings.alpha_mode, settings.alpha_form)
        self.parameters = [self.theta, *self.alpha.parameters()]
        groups = [
            {"params": [self.theta], "weight_decay": settings.weight_decay},
            {"params": list(self.alpha.parameters()), "weight_decay": 0.0},
        ]
        self.peaks = [settings.lr, settings.alpha_lr or settings.lr]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr)
        self.units = units_of(tasks, settings)
        self.per_epoch = -(-len(self.units) // settings.tasks)
        size = adapted.model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
        self.vocabulary_size = int(size) if settings.sampled_vocabulary else 0
        self.frequent = self._frequent() if self.vocabulary_size > FREQUENT + OTHERS else None
        self.step, self.spent_s, self.curve = 0, 0.0, list[dict[str, float]]()
        self.best, self.best_step, self.window = self.start(), 0, list[float]()
        self.identity = {
            "settings": settings.fingerprint,
            "layout": adapted.layout.fingerprint,
            "tasks": _digest(tasks, held_out),
            "begin": begin.fingerprint,
        }

    def start(self) -> Start:
        """theta and alpha as they are now, on the CPU."""
        return Start(self.theta.detach().cpu().clone(), self.alpha().detach().cpu().clone())

    def train(
        self, on_progress: Callable[[Progress], None] | None, checkpoint: Path | None
    ) -> MetaInitResult:
        """Go on from where the run stands to its end."""
        s = self.settings
        steps = s.max_steps or (0 if s.minutes else s.epochs * self.per_epoch)
        budget = Budget(steps, s.minutes, self.spent_s)
        saved = self.spent_s
        if not self.curve:
            self.evaluate(0.0)
        while (share := budget.progress(self.step)) < 1:
            lrs = [s.schedule.lr(peak, share) for peak in self.peaks]
            for group, lr in zip(self.optimizer.param_groups, lrs, strict=False):
                group["lr"] = lr
            loss = self.one_step()
            self.window.append(loss)
            self.step += 1
            share = budget.progress(self.step)
            due = share >= 1 or (s.evaluate_every and self.step % s.evaluate_every == 0)
            measures = self.evaluate(budget.spent_s) if due else None
            self.spent_s = budget.spent_s
            if checkpoint is not None and (due or self.spent_s - saved > SAVE_S):
                self.save(checkpoint)
                saved = self.spent_s
            if on_progress is not None:
                on_progress(Progress(self.step, share, loss, lrs[0], measures))
        facts = {
            "name": s.name, "steps": self.step, "minutes": round(self.spent_s / 60, 2),
            "best_step": self.best_step, "units": len(self.units), **self.identity,
        }  # fmt: skip
        return MetaInitResult(self.best, tuple(self.curve), self.best_step, s, facts)

    def one_step(self) -> float:
        """One optimizer step; its mean outer loss."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        lessons = [lesson_of(u, s, self.encoder, generator) for u in self._batch()]
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with torch.random.fork_rng():
            # the same draws at this step whether the run was resumed or not
            torch.manual_seed(s.seed * 1_000_003 + self.step)
            for first in range(0, len(lessons), s.tasks_at_once):
                part = distracted(lessons[first : first + s.tasks_at_once], s.distractors)
                loss = outer_loss(
                    self.adapted, self.theta, self.alpha(), part, s, self._vocabulary(part)
                )
                torch.autograd.backward(loss * (len(part) / len(lessons)))
                total += float(loss.detach()) * len(part) / len(lessons)
        check_finite(total, self.step)
        nn.utils.clip_grad_norm_(self.parameters, s.clip)
        self.optimizer.step()
        return total

    def evaluate(self, spent_s: float) -> dict[str, float]:
        """Measures on the set-aside tasks, added to the curve; keeps theta, alpha if best."""
        s, now = self.settings, self.start()
        found: dict[str, float] = {}
        if self.held_out:
            mode: Literal["meta", "meta+icl"] = "meta+icl" if s.visible else "meta"
            how = ControlSettings(inner=s.inner, at_once=max(s.tasks_at_once, 8))
            result = run_controls(
                self.adapted, self.encoder, self.held_out, [mode], how,
                start=now, answering=self.answering,
            )[mode]  # fmt: skip
            found = {name: result.mean(name) for name in ("nll", *result.scores)}
        entry = {"step": float(self.step), "minutes": round(spent_s / 60, 3), **found}
        if self.window:
            entry["loss"] = sum(self.window) / len(self.window)
        value = _value(entry, s.keep_best_by)
        if all(value >= _value(old, s.keep_best_by) for old in self.curve):
            self.best, self.best_step = now, self.step
        self.curve.append(entry)
        self.window = []
        return found

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        tensors = {
            "theta": self.theta, "alpha": self.alpha.values,
            "best_theta": self.best.theta, "best_alpha": self.best.alpha,
        }  # fmt: skip
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adamw.{i}.{name}": value for name, value in state.items()}
        facts = {
            "identity": self.identity, "step": self.step, "spent_s": self.spent_s,
            "curve": self.curve, "window": self.window, "best_step": self.best_step,
        }  # fmt: skip
        save_checkpoint(path, tensors, facts)

    def load(self, path: Path) -> None:
        """Go back to where the checkpoint stands, if there is one."""
        found = load_checkpoint(path)
        if found is None:
            return
        tensors, facts = found
        for what, own in self.identity.items():
            if facts["identity"].get(what) != own:
                raise Mismatch(
                    f"{path} is of a run with other {what}",
                    code="checkpoint_mismatch",
                    hint="remove it to begin anew, or name another file",
                )
        with torch.no_grad():
            self.theta.copy_(tensors["theta"])
            self.alpha.values.copy_(tensors["alpha"])
        state = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adamw."):
                _, i, key = name.split(".")
                state["state"].setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        self.best = Start(tensors["best_theta"], tensors["best_alpha"])
        self.step, self.spent_s, self.curve, self.window, self.best_step = (
            facts[key] for key in ("step", "spent_s", "curve", "window", "best_step")
        )

    def _batch(self) -> list[list[Task]]:
        """The units of this step: each epoch goes through all of them in an order of its own."""
        epoch, at = divmod(self.step, self.per_epoch)
        generator = torch.Generator().manual_seed(self.settings.seed * 7_919 + epoch)
        order = torch.randperm(len(self.units), generator=generator).tolist()
        size = self.settings.tasks
        return [self.units[i] for i in order[at * size : (at + 1) * size]]

    def _vocabulary(self, lessons: Sequence[Lesson]) -> Vocabulary | None:
        if self.frequent is None:
            return None
        ids = {i for x in lessons for document in x.documents for i in document.ids}
        labels = torch.tensor(sorted(ids), device=self.theta.device)
        return Vocabulary(labels, self.frequent, self.vocabulary_size)

    def _frequent(self) -> Tensor:
        """The commonest words of the passages."""
        inner = self.settings.inner
        some = self.units[:: max(1, len(self.units) // 500)]
        texts = [d for unit in some for d in inner.documents(inner.chosen(unit[0]), self.encoder)]
        return frequent_words(texts, self.vocabulary_size).to(self.theta.device)


def _value(entry: dict[str, float], measure: str) -> float:
    """What an evaluation is worth; all the same without set-aside tasks, so that the last wins."""
    return -entry["nll"] if measure == "nll" and "nll" in entry else entry.get(measure, 0.0)


def _digest(*sets: Sequence[Task]) -> str:
    plain = [[asdict(task) for task in tasks] for tasks in sets]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _check(
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    settings: MetaInitSettings,
    answering: Answering | None,
) -> None:
    if not tasks:
        raise InvalidInput("there is no task to train on")
    seen = {(task.question, task.passages) for task in tasks}
    for task in held_out:
        if (task.question, task.passages) in seen:
            raise InvalidInput(
                f"set-aside task {task.id!r} is also trained on: {task.question!r}",
                hint="set tasks aside before training",
            )
    scores = () if answering is None else answering.scores
    if settings.keep_best_by == "f1" and held_out and "f1" not in scores:
        raise InvalidInput(
            "keep_best_by is 'f1', and nothing here generates answers",
            hint="use keep_best_by = 'nll'",
        )
