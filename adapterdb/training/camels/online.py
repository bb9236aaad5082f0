"""Online adaptation: one state learns a stream of documents in order, then answers all questions.

    uniform, salient, tfidf, camels    Adam on each document's weighted loss, one document a step
    light tuning                       the same with steps on other questions between or after

The learning rate of every method is chosen on a validation stream and never on the reported one
(Hu et al., arXiv 2305.15076, section 4). This is the setting of the paper and a baseline for a
database: nothing can be taken out of the state again. Scores by the loss of the right answers;
whoever wants generated ones gives a callable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training.camels.objective import Lesson, lesson_of
from adapterdb.training.camels.space import Normalisation, Space, State, leaves, normalised
from adapterdb.training.objective import TokenSequence, TrainingPassage
from adapterdb.training.weights.weighting import Weigher

Light = Literal["none", "interleaved", "after"]
Score = Callable[[State], Mapping[str, float]]


@dataclass(frozen=True)
class AdaptSettings:
    """How a stream is learned; the defaults are CaMeLS' own.

    Args:
        name: of the preset; about: a line for people.
        space: LoRA ``rows``, or all ``weights``; for whoever makes the ``Space``.
        lrs: learning rates of Adam to choose from.
        clip: greatest norm of a gradient.
        epochs: passes over the stream.
        normalisation: of weighted losses, see ``space.normalised``.
        max_document, max_question, max_answer: longest ones, in tokens.
        light_lr: of Adam on the questions of light tuning.
        light_patience: checks without improvement after which light tuning ends.
        light_check: its steps between checks. light_epochs: greatest number of passes.
    """

    name: str = "camels-adapt"
    about: str = ""
    space: Literal["rows", "weights"] = "rows"
    lrs: tuple[float, ...] = (1e-4, 2.5e-5, 6.25e-6, 1.56e-6)
    clip: float = 750.0
    epochs: int = 1
    normalisation: Normalisation = "none"
    max_document: int = 1024
    max_question: int = 128
    max_answer: int = 24
    light_lr: float = 2.5e-5
    light_patience: int = 3
    light_check: int = 100
    light_epochs: int = 10

    def __post_init__(self) -> None:
        where = f"preset {self.name!r}: "
        if not self.lrs:
            raise InvalidInput(f"{where}lrs is empty; name at least one learning rate")
        for lr in (*self.lrs, self.light_lr):
            check_number(where + "learning rate", lr, 0.0, 1e3)
        check_number(where + "clip", self.clip, 1e-9, 1e12)
        for key in ("epochs", "max_document", "max_question", "max_answer", "light_patience",
                    "light_check", "light_epochs"):  # fmt: skip
            check_int(where + key, getattr(self, key), 1, 10**9)


@dataclass(frozen=True)
class Method:
    """A way to learn a stream.

    Args:
        name: in tables.
        weigher: of tokens; None: all alike.
        light: steps on questions ``interleaved`` with the documents, or ``after`` them.
        lrs: to choose from, where they are others than the settings'.
    """

    name: str
    weigher: Weigher | None = None
    light: Light = "none"
    lrs: tuple[float, ...] = ()


@dataclass(frozen=True)
class LightData:
    """Questions for light tuning, and others that say when to stop; none of any stream."""

    train: Sequence[TokenSequence] = ()
    valid: Sequence[TokenSequence] = ()


@dataclass(frozen=True)
class OnlineResult:
    """What a method came to.

    Args:
        method: its name.
        lr: the one chosen.
        validation: mean answer loss on the validation stream for each learning rate.
        losses: of every question of the reported stream, in order, nats per answer token.
        scores: what the caller's ``score`` said of the reported state.
    """

    method: str
    lr: float
    validation: Mapping[float, float]
    losses: tuple[float, ...]
    scores: Mapping[str, float] = field(default_factory=dict)


def compare(
    space: Space,
    encoder: PromptEncoder,
    methods: Sequence[Method],
    valid: Sequence[TrainingPassage],
    test: Sequence[TrainingPassage],
    settings: AdaptSettings,
    *,
    light: LightData | None = None,
    score: Score | None = None,
) -> list[OnlineResult]:
    """Learn both streams by every method: the validation's for its learning rate, then the test's.

    Args:
        space: what is adapted; every stream begins from its ``begin``.
        encoder: of the model.
        methods: what is compared.
        valid, test: passages with ``qa``, in the order of the streams.
        settings: how.
        light: for methods with light tuning.
        score: called with the state after the test stream of each method.

    Raises:
        InvalidInput: if a stream is empty, they share a passage, or ``light`` is missing.
    """
    both = {(p.title, p.text) for p in valid} & {(p.title, p.text) for p in test}
    if not valid or not test or both:
        raise InvalidInput(
            f"{len(valid)} validation and {len(test)} test passages, {len(both)} of them in both:"
            " both streams need passages, and none may be in both"
        )
    found = []
    for method in methods:
        swept = {
            lr: _mean(_learned(space, encoder, method, valid, lr, settings, light)[1])
            for lr in method.lrs or settings.lrs
        }
        lr = min(swept, key=lambda each: (math.isnan(swept[each]), swept[each]))
        state, losses = _learned(space, encoder, method, test, lr, settings, light)
        scores = dict(score(state)) if score is not None else {}
        found.append(OnlineResult(method.name, lr, swept, losses, scores))
    return found


def adapt_stream(
    space: Space,
    documents: Sequence[TokenSequence],
    lr: float,
    settings: AdaptSettings,
    *,
    between: Sequence[TokenSequence] = (),
) -> State:
    """The state after one Adam step on each document, in order; without history.

    Args:
        documents: with their ``weights``, where tokens are weighed.
        lr: of Adam.
        settings: epochs, clip, normalisation.
        between: questions, one of which is learned after each document, round and round.
    """
    state = leaves(space.begin())
    adam = torch.optim.Adam(state, lr=lr)
    light = torch.optim.Adam(state, lr=settings.light_lr)
    for step in range(len(documents) * settings.epochs):
        document = documents[step % len(documents)]
        _step(space, state, document, adam, settings)
        if between:
            _step(space, state, between[step % len(between)], light, settings)
    return _ended(state)


def light_tuned(space: Space, state: State, light: LightData, settings: AdaptSettings) -> State:
    """``state`` after Adam on the light-tuning questions, at its best by ``light.valid``."""
    now = leaves(tuple(tensor.clone() for tensor in state))
    adam = torch.optim.Adam(now, lr=settings.light_lr)
    best, least, worse = _ended(now), _mean(answer_losses(space, _ended(now), light.valid)), 0
    for step in range(1, len(light.train) * settings.light_epochs + 1):
        _step(space, now, light.train[(step - 1) % len(light.train)], adam, settings)
        if step % settings.light_check and step < len(light.train) * settings.light_epochs:
            continue
        loss = _mean(answer_losses(space, _ended(now), light.valid))
        worse = 0 if loss < least else worse + 1
        if loss < least:
            best, least = _ended(now), loss
        if worse >= settings.light_patience:
            break
    return best


def answer_losses(
    space: Space, state: State, questions: Sequence[TokenSequence]
) -> tuple[float, ...]:
    """The loss of each question's right answer, nats per token; each on its own."""
    return tuple(float(space.loss(state, [question])) for question in questions)


def weighed_documents(
    passages: Sequence[TrainingPassage],
    lessons: Sequence[Lesson],
    weigher: Weigher | None,
) -> list[TokenSequence]:
    """The lessons' documents with the weigher's weights on their tokens."""
    documents = [lesson.document for lesson in lessons]
    if weigher is None:
        return documents
    return [
        replace(document, weights=tuple(weights[: len(document.ids)]))
        for document, weights in zip(documents, weigher(passages), strict=True)
    ]


def _learned(
    space: Space,
    encoder: PromptEncoder,
    method: Method,
    passages: Sequence[TrainingPassage],
    lr: float,
    settings: AdaptSettings,
    light: LightData | None,
) -> tuple[State, tuple[float, ...]]:
    """The state after a stream, and the losses of all its questions."""
    lessons = [
        lesson_of(
            p, encoder, max_document=settings.max_document, max_question=settings.max_question,
            max_answer=settings.max_answer,
        )
        for p in passages
    ]  # fmt: skip
    documents = weighed_documents(passages, lessons, method.weigher)
    if method.light != "none" and (light is None or not light.train or not light.valid):
        raise InvalidInput(
            f"method {method.name!r} needs questions for light tuning, of both kinds"
        )
    between = light.train if light is not None and method.light == "interleaved" else ()
    state = adapt_stream(space, documents, lr, settings, between=between)
    if light is not None and method.light == "after":
        state = light_tuned(space, state, light, settings)
    questions = [question for lesson in lessons for question in lesson.questions]
    return state, answer_losses(space, state, questions)


def _step(
    space: Space,
    state: State,
    sequence: TokenSequence,
    optimizer: torch.optim.Optimizer,
    settings: AdaptSettings,
) -> None:
    weights: Tensor | None = None
    if sequence.weights is not None:
        own = torch.tensor(sequence.weights[max(sequence.loss_from, 1) :], device=state[0].device)
        weights = normalised(own, settings.normalisation)
    with torch.enable_grad():
        loss = space.loss(state, [sequence], weights)
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=list(state))
    torch.nn.utils.clip_grad_norm_(state, settings.clip)
    optimizer.step()


def _ended(state: State) -> State:
    return tuple(tensor.detach().clone() for tensor in state)


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
