"""The training of a gate: the loop, its evaluations and its checkpoint.

The base model is frozen, and so are the deltas unless they are to learn too. Batches depend on the
seed and the step alone, so that a run of a fixed number of steps that was resumed gives bit for bit
what it would have given. Knows no database; gate and deltas are the caller's to keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.training.checkpoint import load_run, save_checkpoint
from adapterdb.training.finetune import minibatches
from adapterdb.training.gate.bank import GateBank, gate_size
from adapterdb.training.gate.calibration import arrow_scales
from adapterdb.training.gate.objective import (
    GateSettings,
    Routed,
    RoutedSequence,
    factors_of,
    joined,
    learned_gates,
    positions,
    route,
    routed_sequences,
)
from adapterdb.training.precision import cast_once
from adapterdb.training.schedule import Budget, Progress, check_finite, spread
from adapterdb.training.tasks import Task

__all__ = ["Expert", "GateResult", "GateSettings", "examples_of", "train_gate"]

# what may differ between a run and its continuation
_BUDGET = ("name", "about", "epochs", "max_steps", "minutes")
_SAVE_S = 120.0
_CALIBRATED_ON = 64  # sequences whose tokens bring Arrow's logits to scale


@dataclass(frozen=True)
class Expert:
    """A delta that is to be chosen for the tokens of a task.

    Args:
        task: name of the task.
        id: of the delta.
        row: its factors ``(P,)``.
    """

    task: str
    id: str
    row: Tensor


@dataclass(frozen=True)
class GateResult:
    """What a run has made.

    Args:
        bank: the best gate, bound to the ids of the experts it began from.
        rows: ``(N, P)`` float32 on the CPU: the deltas as they are at that step.
        curve: of every evaluation: step, minutes, loss since the last one, held-out measures.
        facts: settings, counts and the best step, as JSON-able data.
    """

    bank: GateBank
    rows: Tensor
    curve: tuple[dict[str, float], ...]
    facts: dict[str, Any]


def examples_of(
    tasks: Sequence[Task], held_out: Sequence[Task], deltas: Sequence[str] = ()
) -> tuple[list[str], list[Task], list[Task]]:
    """The tasks a gate is for, their examples to learn from, and those to choose by.

    Args:
        deltas: only these tasks; empty: all that are named.

    Raises:
        InvalidInput: if no tasks are given and an example names none.
    """
    names = list(dict.fromkeys(deltas)) or sorted({task.task for task in tasks})
    if "" in names:
        nameless = next(task for task in tasks if not task.task)
        raise InvalidInput(
            f"question {nameless.id!r} names no task: {nameless.question[:60]!r}",
            hint="""say in "task" which document holds its delta""",
        )
    learned, aside = ([task for task in s if task.task in names] for s in (tasks, held_out))
    return names, learned, aside


def train_gate(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    experts: Sequence[Expert],
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    settings: GateSettings,
    *,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> GateResult:
    """Learn a gate over ``experts`` and keep what is best on ``held_out``.

    Args:
        tasks: examples to learn from; ``task`` says whose they are.
        held_out: examples that are not trained on; empty keeps the last step.
        checkpoint: where the run is saved, and resumed from if the file is there.
        on_progress: called after every step; what it raises ends the run.

    Raises:
        InvalidInput: for fewer than two experts, a task without an expert, an expert without an
            example, an example in both sets; code ``diverged`` if the loss is no longer finite.
        Mismatch: if the checkpoint is of other settings, examples, deltas or layout.
        Corrupt: if it can't be read.
    """
    places = {expert.task: place for place, expert in enumerate(experts)}
    _check(experts, places, tasks, held_out)
    learned, aside = (
        routed_sequences(
            examples, encoder, places, mask=settings.mask, max_tokens=settings.max_tokens
        )
        for examples in (_capped(tasks, settings.per_task), spread(held_out, settings.evaluate_on))
    )
    if settings.turns > 1:
        longest = settings.max_tokens or encoder.max_length
        learned, aside = (
            joined(x, settings.turns, longest, settings.seed) for x in (learned, aside)
        )
    if not learned:
        raise InvalidInput("no example has a token to learn from once it is cut to max_tokens")
    run = _Run(adapted, experts, learned, aside, settings)
    if checkpoint is not None:
        run.load(checkpoint)
    with cast_once(adapted.model):
        return run.train(checkpoint, on_progress)


class _Run:
    """A training run: parameters, optimizer, and where it stands."""

    def __init__(
        self,
        adapted: AdaptedModel,
        experts: Sequence[Expert],
        learned: Sequence[RoutedSequence],
        aside: Sequence[RoutedSequence],
        settings: GateSettings,
    ) -> None:
        s = self.settings = settings
        self.adapted, self.experts = adapted, experts
        self.learned, self.aside = learned, aside
        device = next(adapted.model.parameters()).device
        rows = torch.stack([expert.row.float() for expert in experts]).to(device)
        generator = torch.Generator().manual_seed(s.seed)
        begin = torch.randn(len(experts), gate_size(adapted.layout), generator=generator)
        self.vectors = nn.Parameter(begin.mul_(s.init_scale).to(device))
        self.rows = nn.Parameter(rows, requires_grad=s.train_deltas)
        self.parameters = {"vectors": self.vectors} | (
            {"rows": self.rows} if s.train_deltas else {}
        )
        peaks = {"vectors": s.lr, "rows": s.delta_lr or s.lr}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p], "peak": peaks[name]} for name, p in self.parameters.items()],
            lr=s.lr, betas=(s.betas[0], s.betas[1]), weight_decay=s.weight_decay,
        )  # fmt: skip
        self.per_epoch = -(-len(learned) // s.batch)
        self.lengths = [len(sequence.ids) for sequence in learned]
        self.step, self.spent_s = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.window: list[float] = []
        self.best, self.best_step = self._now(), 0
        self.identity = self._identity()

    def train(
        self, checkpoint: Path | None, on_progress: Callable[[Progress], None] | None
    ) -> GateResult:
        """Go on from where the run stands to its end."""
        s = self.settings
        steps = s.max_steps or (0 if s.minutes else s.epochs * self.per_epoch)
        budget = Budget(steps, s.minutes, self.spent_s)
        every, saved = s.evaluate_every or self.per_epoch, self.spent_s
        while (share := budget.progress(self.step)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = s.schedule.lr(group["peak"], share)
            loss = self.one_step()
            share = budget.progress(self.step)
            due = share >= 1 or self.step % every == 0
            measures = self.evaluate(budget.spent_s) if due else None
            self.spent_s = budget.spent_s
            if checkpoint is not None and (due or self.spent_s - saved > _SAVE_S):
                self.save(checkpoint)
                saved = self.spent_s
            if on_progress is not None:
                lr = float(self.optimizer.param_groups[0]["lr"])
                on_progress(Progress(self.step, share, loss, lr, measures))
        return self._result()

    def one_step(self) -> float:
        """One optimizer step; its loss."""
        s = self.settings
        batch = self._batch()
        said, sent = positions(batch)
        sites = len(self.adapted.layout.sites)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for first in range(0, len(batch), s.at_once):
            part = batch[first : first + s.at_once]
            found, pairs = route(
                self.adapted, *self._acting(self.vectors, self.rows), part, lm_share=1 / said
            )
            gate = found.gate * (s.gate_weight / (sent * sites))
            heads = [(gate, None), *pairs]
            torch.autograd.backward([h for h, _ in heads], [g for _, g in heads])
            total += float(gate.detach()) + float(found.lm) / said
        check_finite(total, self.step)
        if s.clip:
            nn.utils.clip_grad_norm_(list(self.parameters.values()), s.clip)
        self.optimizer.step()
        self.window.append(total)
        self.step += 1
        return total

    @torch.no_grad()
    def evaluate(self, spent_s: float) -> dict[str, float]:
        """Measures on what is set aside, added to the curve; keeps the gate if it is the best."""
        s = self.settings
        entry: dict[str, float] = {"step": float(self.step), "minutes": round(spent_s / 60, 3)}
        entry["train"] = sum(self.window) / len(self.window)
        self.window = []
        measures: dict[str, float] = {}
        if self.aside:
            acting = self._acting(self.vectors, self.rows)
            parts = [self.aside[i : i + s.at_once] for i in range(0, len(self.aside), s.at_once)]
            measures = _means([route(self.adapted, *acting, part)[0] for part in parts], s)
            check_finite(measures["loss"], self.step)
        entry |= measures
        if all(entry.get("loss", 0.0) <= old.get("loss", 0.0) for old in self.curve):
            self.best, self.best_step = self._now(), self.step
        self.curve.append(entry)
        return measures

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        tensors = {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.parameters.items():
            tensors[f"now.{name}"] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adamw.{name}.{key}"] = value
        facts = {
            "run": self.identity, "step": self.step, "spent_s": self.spent_s,
            "curve": self.curve, "window": self.window, "best_step": self.best_step,
        }  # fmt: skip
        save_checkpoint(path, tensors, facts)

    def load(self, path: Path) -> None:
        """Go back to where the checkpoint stands, if there is one."""
        found = load_run(path, self.identity, "settings, examples, deltas or another layout")
        if found is None:
            return
        tensors, facts = found
        device = self.vectors.device
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"now.{name}"])
            self.best[name] = tensors[f"best.{name}"]
            state = {
                key.rpartition(".")[2]: value
                for key, value in tensors.items()
                if key.startswith(f"adamw.{name}.")
            }
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(device) for key, value in state.items()
            }
        self.step, self.spent_s, self.curve, self.window, self.best_step = (
            facts[key] for key in ("step", "spent_s", "curve", "window", "best_step")
        )

    def _acting(self, vectors: Tensor, rows: Tensor) -> tuple[Any, Any]:
        """Factors and gates of the bank."""
        layout, s = self.adapted.layout, self.settings
        return factors_of(layout, rows), learned_gates(layout, vectors, s.top_k, s.temperature)

    def _batch(self) -> list[RoutedSequence]:
        """The examples of this step: each epoch goes through all in an order of its own."""
        epoch, at = divmod(self.step, self.per_epoch)
        seed = self.settings.seed * 7_919 + epoch
        places = minibatches(self.lengths, self.settings.batch, seed)[at]
        return [self.learned[i] for i in places]

    def _now(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    def _result(self) -> GateResult:
        s, device = self.settings, self.vectors.device
        vectors = self.best["vectors"].to(device)
        rows = self.best.get("rows", self.rows.detach()).to(device)
        arrow = arrow_scales(
            self.adapted, rows, vectors, s.top_k, s.temperature,
            spread(self.learned, _CALIBRATED_ON), at_once=s.at_once,
        )  # fmt: skip
        ids = tuple(expert.id for expert in self.experts)
        layout = self.adapted.layout.fingerprint
        bank = GateBank(ids, vectors.cpu(), arrow, s.top_k, s.temperature, layout)
        facts = {
            "name": s.name, "settings": asdict(s), "steps": self.step,
            "minutes": round(self.spent_s / 60, 2), "best_step": self.best_step,
            "examples": len(self.learned), "held_out": len(self.aside),
        }  # fmt: skip
        return GateResult(bank, rows.cpu(), tuple(self.curve), facts)

    def _identity(self) -> str:
        """sha256 of what a continuation must have in common with its beginning."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in _BUDGET}
        ids = [expert.id for expert in self.experts]
        plain = [settings, self.adapted.layout.fingerprint, ids]
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for sequence in (*self.learned, *self.aside):
            digest.update(json.dumps([sequence.ids, sequence.experts]).encode())
        digest.update(self.rows.detach().cpu().numpy().tobytes())
        return digest.hexdigest()


def _means(measured: Sequence[Routed], settings: GateSettings) -> dict[str, float]:
    """The loss and its parts, and the share of positions each site sends to their own delta."""
    said, sent = sum(m.said for m in measured), sum(m.sent for m in measured)
    sites = len(measured[0].right)
    lm = sum(float(m.lm) for m in measured) / said
    gate = sum(float(m.gate) for m in measured) / (sent * sites)
    right = sum(int(m.right.sum()) for m in measured) / (sent * sites)
    return {"loss": lm + settings.gate_weight * gate, "lm": lm, "gate": gate, "routed": right}


def _capped(tasks: Sequence[Task], most: int) -> list[Task]:
    """At most ``most`` examples of each task, evenly spaced; 0: all."""
    if not most:
        return list(tasks)
    names = dict.fromkeys(task.task for task in tasks)
    return [t for name in names for t in spread([t for t in tasks if t.task == name], most)]


def _check(
    experts: Sequence[Expert],
    places: Mapping[str, int],
    tasks: Sequence[Task],
    held_out: Sequence[Task],
) -> None:
    if len(experts) < 2 or len(places) < len(experts):
        raise InvalidInput(f"a gate chooses among two or more deltas of different tasks, not among"
                           f" {[expert.task for expert in experts]}")  # fmt: skip
    strange = sorted({task.task for task in (*tasks, *held_out)} - set(places))
    if strange:
        raise InvalidInput(f"task {strange[0]!r} has no delta among {', '.join(sorted(places))}")
    idle = sorted(set(places) - {task.task for task in tasks})
    if idle:
        raise InvalidInput(f"there is no example of task {idle[0]!r} to learn from")
    both = {(t.task, t.question) for t in tasks} & {(t.task, t.question) for t in held_out}
    if both:
        raise InvalidInput(
            f"{len(both)} set-aside examples are also trained on: {min(both)[1][:60]!r}",
            hint="set examples aside before training",
        )
