"""What meta-training minimises, and its settings: tasks to lessons, lessons to an outer loss.

    theta'(c) = theta - alpha * sum_k grad L_passage(theta; c_k)          see ``inner_step``
    L         = E [ L_outer(theta'(c); question, answer) ]

Knows no optimizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training.differentiable import Vocabulary, passage_losses
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import pad
from adapterdb.training.meta.alpha import AlphaForm, AlphaMode
from adapterdb.training.meta.inner_step import InnerStep, stepped
from adapterdb.training.objective import TokenSequence
from adapterdb.training.schedule import Schedule
from adapterdb.training.tasks import Task

Outer = Literal["answer_ce", "kl_to_prompted", "ntp"]


@dataclass(frozen=True)
class MetaInitSettings:
    """How theta and alpha are trained.

    Args:
        name: what users call it. about: a line for people.
        lora: which linears, rank and alpha.
        inner: the step from theta.
        distractors: passages of other tasks of the same ``tasks_at_once`` that are added to each
            task's own; they are computed once anyway.
        alpha_mode, alpha_form, init_alpha: see ``alpha``.
        alpha_lr: of alpha or its logarithm; 0 means ``lr``.
        second_order: False takes the inner gradients as constants.
        sampled_vocabulary: a sampled softmax in the inner loss; saves time, needs a vocabulary of
            more than 3,000 words. Evaluation always takes all words.
        outer: ``answer_ce`` (loss of the answer tokens), ``kl_to_prompted`` (KL of the answer
            tokens' predictions from those of the base model that sees the passages), ``ntp``
            (ReGrad's ablation without an outer loss: theta learns the passages themselves).
        visible: the passages are in the prompt too (ReGrad+ICL).
        questions: of the same passages, for one inner step; more than 1 groups tasks that have
            the same passages, and repeats questions where there are fewer.
        lr: of theta, AdamW. weight_decay: of theta.
        schedule: of both learning rates.
        clip: largest norm of the gradient of theta and alpha together.
        tasks: in one optimizer step. tasks_at_once: in one forward.
        epochs: over all tasks; max_steps, minutes: instead of it where not 0.
        evaluate_every: steps between evaluations on the set-aside tasks; 0 means at the end only.
        evaluate_on: how many of them are looked at, evenly spaced (Meta-PG: 1000).
        keep_best_by: ``nll`` of the set-aside answers, or the score ``f1`` of generated ones.
        b_std: standard deviation of B at a fresh start. With 0, peft's, the gradient of A is
            exactly zero until B has moved.
        seed: of the fresh start, the order of tasks and every draw.
    """

    name: str
    about: str = ""
    lora: LoraSpec = field(default_factory=lambda: LoraSpec(16, 32.0, layers="upper-half"))
    inner: InnerStep = field(default_factory=InnerStep)
    distractors: int = 0
    alpha_mode: AlphaMode = "tie"
    alpha_form: AlphaForm = "plain"
    init_alpha: float = 1e-2
    alpha_lr: float = 0.0
    second_order: bool = True
    sampled_vocabulary: bool = False
    outer: Outer = "answer_ce"
    visible: bool = False
    questions: int = 1
    lr: float = 4e-4
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    clip: float = 0.5
    tasks: int = 16
    tasks_at_once: int = 4
    epochs: int = 1
    max_steps: int = 0
    minutes: float = 0.0
    evaluate_every: int = 1000
    evaluate_on: int = 1000
    keep_best_by: Literal["nll", "f1"] = "nll"
    b_std: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"meta-init {self.name!r}: "
        for key in ("lr", "alpha_lr", "weight_decay", "minutes", "b_std"):
            check_number(where + key, getattr(self, key), 0.0, 1e6)
        check_number(where + "clip", self.clip, 1e-9, 1e9)
        check_number(where + "init_alpha", self.init_alpha, -1e3, 1e3)
        for key in ("questions", "tasks", "tasks_at_once", "epochs", "evaluate_on"):
            check_int(where + key, getattr(self, key), 1, 10**6)
        for key in ("max_steps", "evaluate_every", "seed"):
            check_int(where + key, getattr(self, key), 0, 2**40)
        check_int(where + "distractors", self.distractors, 0, self.tasks_at_once - 1)
        if self.visible and self.outer == "kl_to_prompted":
            raise InvalidInput(
                f"{where}outer 'kl_to_prompted' with visible passages has nothing to learn:"
                " the base model without a delta is what it imitates",
                hint="set visible = false, or outer = 'answer_ce'",
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of all settings; a checkpoint is resumed only under the same."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Lesson:
    """One task, or several of the same passages, as sequences.

    Args:
        documents: of the inner loss.
        asked: prompt and answer, loss on the answer; as many in every lesson.
        prompted: the same answers after prompts that hold the passages, for the KL.
    """

    documents: tuple[TokenSequence, ...]
    asked: tuple[TokenSequence, ...]
    prompted: tuple[TokenSequence, ...] = ()


def units_of(tasks: Sequence[Task], settings: MetaInitSettings) -> list[list[Task]]:
    """Tasks that share an inner step: one each, or all of the same passages."""
    if settings.questions == 1:
        return [[task] for task in tasks]
    found: dict[Any, list[Task]] = {}
    for task in tasks:
        found.setdefault((task.passages, task.gold), []).append(task)
    return list(found.values())


def lesson_of(
    unit: Sequence[Task],
    settings: MetaInitSettings,
    encoder: PromptEncoder,
    generator: torch.Generator,
) -> Lesson:
    """Tasks of the same passages as one lesson of ``questions`` questions, drawn in turn."""
    s = settings
    passages = s.inner.chosen(unit[0])
    order = torch.randperm(len(unit), generator=generator).tolist()
    chosen = [unit[order[i % len(order)]] for i in range(s.questions)]
    asked, prompted = [], []
    for task in chosen:
        answer = encoder.answer(task.answer)
        room = max(encoder.prompts.max_new_tokens, len(answer))
        blind = encoder.blind(task.question)
        if s.visible or s.outer == "kl_to_prompted":
            shown = encoder.context(task.question, passages, room)[0]
            prompted.append(TokenSequence((*shown, *answer), len(shown)))
        asked.append(TokenSequence((*blind, *answer), len(blind)))
    documents = tuple(s.inner.documents(passages, encoder))
    return Lesson(documents, tuple(prompted if s.visible else asked), tuple(prompted))


def distracted(lessons: Sequence[Lesson], count: int) -> list[Lesson]:
    """Lessons with the first documents of the ``count`` lessons after each, going round."""
    n = len(lessons)
    found = []
    for i, lesson in enumerate(lessons):
        others = [lessons[(i + k) % n].documents[0] for k in range(1, min(count, n - 1) + 1)]
        found.append(replace(lesson, documents=(*lesson.documents, *others)))
    return found


def outer_loss(
    adapted: AdaptedModel,
    theta: Tensor,
    alpha: Tensor,
    lessons: Sequence[Lesson],
    settings: MetaInitSettings,
    vocabulary: Vocabulary | None = None,
) -> Tensor:
    """The mean outer loss of ``lessons``, a scalar in nats, differentiable in theta and alpha.

    Args:
        theta: ``(P,)``, requiring a gradient. alpha: ``(P,)``.
        vocabulary: of the inner softmax (of the only one for ``ntp``).
    """
    contexts = [lesson.documents for lesson in lessons]
    if settings.outer == "ntp":
        documents = [[d] for d in dict.fromkeys(d for context in contexts for d in context)]
        rows = theta.expand(len(documents), -1).contiguous()
        return passage_losses(adapted, rows, documents, vocabulary=vocabulary).mean()
    rows = stepped(
        adapted, theta, alpha, contexts, settings.inner,
        vocabulary=vocabulary, create_graph=settings.second_order,
    )  # fmt: skip
    if settings.outer == "answer_ce":
        return passage_losses(adapted, rows, [lesson.asked for lesson in lessons]).mean()
    with torch.no_grad():
        wanted = _predictions(adapted, None, [s for x in lessons for s in x.prompted])
    said = _predictions(adapted, rows, [s for x in lessons for s in x.asked])
    return F.kl_div(said, wanted, reduction="batchmean", log_target=True)


def _predictions(
    adapted: AdaptedModel, rows: Tensor | None, sequences: Sequence[TokenSequence]
) -> Tensor:
    """Log probabilities ``(n, V)`` at the labelled positions of ``sequences``, in order."""
    ids, mask, labels = pad(sequences, next(adapted.model.parameters()).device)
    with adapted.using_rows(rows) as model:
        split = SplitModel(model)
        logits = split.logits(split.hidden_states(ids, mask)[labels != -100])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
