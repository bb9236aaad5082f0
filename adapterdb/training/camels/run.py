"""Meta-training of the weighter: the loop and its checkpoint.

The base model carries what it learned from batch to batch, without history, and begins anew every
``reset_base_freq`` documents, so that the weighter sees models in the middle of a stream too
(Hu et al., arXiv 2305.15076, section 3.2). Batches depend on the seed and the step alone, so a run
that was interrupted ends where an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel
from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.training.camels.objective import (
    CamelsSettings,
    Lesson,
    Weigh,
    lesson_of,
    objective,
    passages_of,
)
from adapterdb.training.camels.space import Rows, Space, State, Whole
from adapterdb.training.checkpoint import load_run, save_checkpoint
from adapterdb.training.differentiable import FREQUENT, OTHERS, Vocabulary, frequent_words
from adapterdb.training.objective import TokenSequence, TrainingPassage
from adapterdb.training.schedule import Budget, Progress, check_finite
from adapterdb.training.start import Start
from adapterdb.training.tasks import Task
from adapterdb.training.weights.weighter import Weighter, weighter_of

__all__ = ["CamelsResult", "CamelsSettings", "meta_train", "train_weighter", "validation"]

# what may differ between a run and its continuation
_BUDGET = ("name", "about", "epochs", "max_steps", "minutes")
_COUNTED = 1000  # passages whose commonest words are in every sampled vocabulary
_LOCALITY = 256  # passages of the training questions at most that stand for other text


@dataclass(frozen=True)
class CamelsResult:
    """A meta-trained weighter.

    Args:
        weighter: the best one by the validation's total loss, in eval mode.
        curve: a row for each validation: step, minutes, train (mean total since the last one), and
            the validation's total, qa, kl and norm. The first is of the untrained weighter.
        facts: settings, counts and the best row, as JSON-able data.
    """

    weighter: Weighter
    curve: tuple[dict[str, float], ...]
    facts: dict[str, Any]


def train_weighter(
    adapted: AdaptedModel,
    base: BaseModel,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    settings: CamelsSettings,
    *,
    start: Start,
    locality: Sequence[str] = (),
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> CamelsResult:
    """Meta-train a new weighter, whose body is a copy of the base model's lower layers.

    Args:
        adapted: the base model with the layout of the rows.
        base: the same, with its prompts.
        tasks: questions to learn from; those of one passage are asked together.
        held_out: others, by which the best weighter is chosen.
        settings: how.
        start: of the rows; not used where the space is ``weights``.
        locality: generic texts an update should leave alone. None given: up to 256 passages of
            ``tasks`` (at most a tenth) are taken out of training to be that.
        checkpoint: where the run is saved at every validation, and resumed from if it is there.
        on_progress: called after every batch; what it raises ends the run.

    Raises:
        InvalidInput: if there is nothing to learn from; code ``diverged`` if the loss is no longer
            finite.
        Mismatch: if the checkpoint is of other settings, passages or another start.
        Corrupt: if it can't be read.
    """
    train, texts = passages_of(tasks), list(locality)
    if not texts and settings.c_kl:
        out = min(_LOCALITY, len(train) // 10)
        texts, train = [p.text for p in train[:out]], train[out:]
    weighter = weighter_of(base.model, base.encoder, settings.weighter, seed=settings.seed)
    weighter.to(base.device)
    space: Space = (
        Rows(adapted, start, own_steps=settings.own_steps)
        if settings.space == "rows"
        else Whole(base.model)
    )
    return meta_train(
        space, weighter, base.encoder, train, passages_of(held_out), texts, settings,
        checkpoint=checkpoint, on_progress=on_progress,
    )  # fmt: skip


def meta_train(
    space: Space,
    weighter: Weighter,
    encoder: PromptEncoder,
    train: Sequence[TrainingPassage],
    valid: Sequence[TrainingPassage],
    locality: Sequence[str],
    settings: CamelsSettings,
    *,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> CamelsResult:
    """Meta-train ``weighter`` in place.

    Args:
        space: what the inner step moves (see ``space``); its model is left as it is.
        weighter: with the tokenizer and prompts of that model.
        encoder: of that model.
        train, valid: passages with ``qa``.
        locality: texts; may be empty if ``c_kl`` is 0.

    The rest and what is raised as in ``train_weighter``.
    """
    run = _Run(space, weighter, encoder, train, valid, locality, settings)
    if checkpoint is not None:
        run.load(checkpoint)
    return run.train(checkpoint, on_progress)


def validation(
    space: Space,
    weigh: Weigh,
    lessons: Sequence[Lesson],
    locality: Sequence[TokenSequence],
    settings: CamelsSettings,
) -> dict[str, float]:
    """The mean outer losses over ``lessons`` in order, with all words in the softmax.

    The base carries and resets as in training, beginning anew with the first batch.
    """
    n, state = settings.update_batch_size, space.begin()
    sums: dict[str, float] = {}
    for at, first in enumerate(range(0, len(lessons), n)):
        if first % settings.reset_base_freq == 0:
            state = space.begin()
        batch = lessons[first : first + n]
        with torch.no_grad():
            losses, state = objective(
                space, weigh, batch, state, _texts(locality, at, settings.locality_batch),
                settings, create_graph=False,
            )  # fmt: skip
        for name, value in losses.to_dict().items():
            sums[name] = sums.get(name, 0.0) + value * len(batch) / len(lessons)
    return sums


class _Run:
    """One meta-training with everything that changes while it goes on."""

    def __init__(
        self,
        space: Space,
        weighter: Weighter,
        encoder: PromptEncoder,
        train: Sequence[TrainingPassage],
        valid: Sequence[TrainingPassage],
        locality: Sequence[str],
        settings: CamelsSettings,
    ) -> None:
        _check(weighter, encoder, train, valid, locality, settings)
        s = self.settings = settings
        self.space, self.weighter = space, weighter
        self.encoder, self.passages = encoder, list(train)
        self.valid = [self._lesson(p) for p in valid]
        ids = [encoder.plain("", text)[: s.locality_tokens] for text in locality]
        self.locality = [TokenSequence(tuple(i)) for i in ids if len(i) > 1]
        self.per_epoch = max(1, len(self.passages) // s.update_batch_size)
        self.parameters = weighter.trained()
        self.optimizer = torch.optim.Adam(_groups(self.parameters, s), lr=s.lr)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=0.1, patience=max(s.plateau, 1)
        )
        self.words = int(weighter.body.config.vocab_size)
        documents = [self._lesson(p).document for p in self.passages[:_COUNTED]]
        self.frequent = frequent_words(documents, self.words)
        self.step, self.spent_s = 0, 0.0
        self.state: State = space.begin()
        self.curve: list[dict[str, float]] = []
        self.best = self._now()
        self.window: list[float] = []

    def train(
        self, checkpoint: Path | None, on_progress: Callable[[Progress], None] | None
    ) -> CamelsResult:
        """Go on from where the run stands until its budget is used up."""
        s = self.settings
        steps = s.max_steps or (0 if s.minutes else s.epochs * self.per_epoch)
        budget = Budget(steps, s.minutes, self.spent_s)
        if not self.curve:
            self.validate(budget.spent_s)
        while (share := budget.progress(self.step)) < 1 or self.step % s.accumulation:
            lr = float(self.optimizer.param_groups[0]["lr"])
            loss = self.one_batch()
            share = budget.progress(self.step)
            over = share >= 1 and self.step % s.accumulation == 0
            due = over or self.step % s.validate_every == 0
            row = self.validate(budget.spent_s) if due else None
            self.spent_s = budget.spent_s
            if due and checkpoint is not None:
                self.save(checkpoint)
            if on_progress is not None:
                on_progress(Progress(self.step, share, loss, lr, row))
        for name, value in self.best.items():
            self.parameters[name].data.copy_(value)
        best = min(self.curve, key=lambda row: row["total"])
        facts = {
            "name": s.name, "settings": asdict(s), "steps": self.step,
            "minutes": round(self.spent_s / 60, 2), "passages": len(self.passages),
            "held_out": len(self.valid), "untrained": self.curve[0], "best": best,
        }  # fmt: skip
        return CamelsResult(self.weighter.eval(), tuple(self.curve), facts)

    def one_batch(self) -> float:
        """One update batch, and a step of Adam after every ``accumulation`` of them; its loss."""
        s = self.settings
        if self.step % (s.reset_base_freq // s.update_batch_size) == 0:
            self.state = self.space.begin()
        lessons = self._lessons()
        losses, self.state = objective(
            self.space, self.weighter, lessons, self.state,
            _texts(self.locality, self.step, s.locality_batch), s,
            vocabulary=self._vocabulary(lessons),
        )  # fmt: skip
        parameters = list(self.parameters.values())
        torch.autograd.backward(losses.total / s.accumulation, inputs=parameters)
        loss = float(losses.total.detach())
        check_finite(loss, self.step)
        self.window.append(loss)
        self.step += 1
        if self.step % s.accumulation == 0:
            torch.nn.utils.clip_grad_norm_(parameters, s.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def validate(self, spent_s: float) -> dict[str, float]:
        """A new row of the curve; the weighter is kept if it is the best one yet."""
        row: dict[str, float] = {"step": self.step, "minutes": round(spent_s / 60, 3)}
        if self.window:
            row["train"] = sum(self.window) / len(self.window)
            self.window = []
        row |= validation(self.space, self.weighter, self.valid, self.locality, self.settings)
        if all(row["total"] < old["total"] for old in self.curve):
            self.best = self._now()
        self.curve.append(row)
        if self.settings.plateau:
            self.plateau.step(row["total"])
        return row

    def load(self, path: Path) -> None:
        """Take the run up from a checkpoint, if there is one."""
        found = load_run(path, self._identity(), "settings, passages or another start")
        if found is None:
            return
        tensors, facts = found
        self.step, self.spent_s, self.curve = facts["step"], facts["spent_s"], facts["curve"]
        self.plateau.load_state_dict(facts["plateau"])
        device = self.state[0].device
        self.state = tuple(tensors[f"state.{i}"].to(device) for i in range(len(self.state)))
        for group, lr in zip(self.optimizer.param_groups, facts["lr"], strict=True):
            group["lr"] = lr
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"now.{name}"])
            self.best[name] = tensors[f"best.{name}"].to(device)
            if f"adam.{name}.step" in tensors:
                self.optimizer.state[parameter] = {
                    "step": tensors[f"adam.{name}.step"],
                    "exp_avg": tensors[f"adam.{name}.exp_avg"].to(device),
                    "exp_avg_sq": tensors[f"adam.{name}.exp_avg_sq"].to(device),
                }

    def save(self, path: Path) -> None:
        """Write the run to ``path``."""
        tensors: dict[str, Tensor] = {f"state.{i}": t for i, t in enumerate(self.state)}
        for name, parameter in self.parameters.items():
            tensors[f"now.{name}"] = parameter
            tensors[f"best.{name}"] = self.best[name]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{key}"] = value
        facts = {
            "run": self._identity(), "step": self.step, "spent_s": self.spent_s,
            "curve": self.curve, "plateau": self.plateau.state_dict(),
            "lr": [group["lr"] for group in self.optimizer.param_groups],
        }  # fmt: skip
        save_checkpoint(path, tensors, facts)

    def _now(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def _lessons(self) -> list[Lesson]:
        """The documents of this step: an epoch's own order, from the seed."""
        epoch, place = divmod(self.step, self.per_epoch)
        generator = torch.Generator().manual_seed(self.settings.seed * 100_003 + epoch)
        order = torch.randperm(len(self.passages), generator=generator).tolist()
        n = self.settings.update_batch_size
        return [self._lesson(self.passages[i]) for i in order[place * n : (place + 1) * n]]

    def _lesson(self, passage: TrainingPassage) -> Lesson:
        s = self.settings
        limits = {"max_document": s.max_document, "max_question": s.max_question}
        return lesson_of(passage, self.encoder, **limits, max_answer=s.max_answer)

    def _vocabulary(self, lessons: Sequence[Lesson]) -> Vocabulary | None:
        """The words of the inner softmax at this step."""
        if not self.settings.sampled_vocabulary or self.words <= FREQUENT + OTHERS:
            return None
        device = self.state[0].device
        labels = torch.tensor([i for lesson in lessons for i in lesson.document.ids])
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
            return Vocabulary(labels.to(device), self.frequent.to(device), self.words)

    def _identity(self) -> str:
        """sha256 of what a continuation must have in common with its beginning."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in _BUDGET}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for passage in self.passages:
            digest.update(json.dumps([passage.title, passage.text, passage.qa]).encode())
        judged = (s for lesson in self.valid for s in (lesson.document, *lesson.questions))
        for sequence in (*judged, *self.locality):
            digest.update(json.dumps(sequence.ids).encode())
        for tensor in self.space.begin():
            digest.update(tensor.cpu().float().numpy().tobytes())
        return digest.hexdigest()


def _check(
    weighter: Weighter,
    encoder: PromptEncoder,
    train: Sequence[TrainingPassage],
    valid: Sequence[TrainingPassage],
    locality: Sequence[str],
    settings: CamelsSettings,
) -> None:
    if not train or not valid:
        raise InvalidInput(
            f"{len(train)} passages to train on and {len(valid)} to choose by: both are needed"
        )
    if not all(p.qa for p in train):
        raise InvalidInput("a passage to train on has no question; the outer loss asks one")
    both = {(p.title, p.text) for p in train} & {(p.title, p.text) for p in valid}
    if both:
        raise InvalidInput(
            f"{len(both)} passages are both trained on and chosen by, the first of them"
            f" {min(both)[1][:60]!r}",
            hint="questions of one passage belong on one side",
        )
    if settings.c_kl and not locality:
        raise InvalidInput(
            f"c_kl is {settings.c_kl} but there is no text for locality",
            hint="give texts the update should leave alone, or set c_kl = 0",
        )
    if encoder.document("a", "b") != weighter.encoder.document("a", "b"):
        raise InvalidInput(
            "the weighter's tokenizer is not the base model's",
            hint="train it against its own model; it is transferred to others afterwards",
        )


def _texts(locality: Sequence[TokenSequence], at: int, n: int) -> list[TokenSequence]:
    """The ``at``-th n of the texts, round and round."""
    return [locality[(at * n + i) % len(locality)] for i in range(n)] if locality else []


def _groups(parameters: Mapping[str, Tensor], settings: CamelsSettings) -> list[dict[str, Any]]:
    body = [p for name, p in parameters.items() if name.startswith("body.")]
    head = [p for name, p in parameters.items() if not name.startswith("body.")]
    found: list[dict[str, Any]] = [{"params": head}]
    return [*found, {"params": body, "lr": settings.body_lr or settings.lr}] if body else found
