"""What a weighter is meta-trained for, and its settings: questions answered after its update.

    state'  = state after one SGD step on each document, its tokens weighed
    L_outer = L_qa(state') + c_kl * KL(p_state || p_state') + c_norm * mean (w - 1)^2

(Hu et al., arXiv 2305.15076, sections 3.1 and 3.2.) Knows no optimizer of the weighter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training.camels.space import (
    Normalisation,
    Space,
    State,
    leaves,
    normalised,
    sgd_step,
)
from adapterdb.training.differentiable import Vocabulary, twice_differentiable
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence, TrainingPassage, document_sequence
from adapterdb.training.tasks import Task
from adapterdb.training.weights.weighter import WeighterSpec

_PARTS = ("total", "qa", "kl", "norm")
Weigh = Callable[[Tensor, Tensor], Tensor]  # input_ids, attention_mask (B, T) to weights (B, T)


@dataclass(frozen=True)
class CamelsSettings:
    """How a weighter is meta-trained; the defaults are CaMeLS' own where it has one.

    Args:
        name: of the preset; about: a line for people.
        space: what the inner step moves: LoRA ``rows``, or all ``weights`` (as published).
        own_steps: of ``rows``: multiply ``inner_lr`` by the start's own steps alpha.
        update_batch_size: documents in a batch.
        sequential_update: one inner step for each document, in order; else one for all.
        per_passage: each document steps alone from the start, as it does when it is stored.
        reset_base_freq: documents after which the base begins anew; a multiple of the batch.
        inner_lr: of the inner SGD step.
        normalisation: ``none`` (mean over all positions, padding counted), ``valid_tokens`` or
            ``sum_to_len``.
        sampled_vocabulary: the inner softmax over a sample of the words, while training.
        max_document, max_question, max_answer: longest ones, in tokens.
        c_kl: of the locality KL; c_norm: of the mean of (w - 1)^2.
        locality_batch: texts for the KL; locality_tokens: of each.
        lr: of Adam; body_lr: for the body, where it is another (0: the same).
        accumulation: batches to one step of Adam.
        clip: greatest norm of the gradient.
        plateau: validations without improvement after which lr falls to a tenth; 0: never.
        epochs, max_steps, minutes: the budget; steps are batches; 0 means no limit.
        validate_every: batches between validations, a multiple of ``accumulation``.
        seed: of the order of documents, of samples, of the head.
        weighter: its shape.
    """

    name: str = "camels"
    about: str = ""
    space: Literal["rows", "weights"] = "rows"
    own_steps: bool = False
    update_batch_size: int = 6
    sequential_update: bool = True
    per_passage: bool = False
    reset_base_freq: int = 24
    inner_lr: float = 5e-4
    normalisation: Normalisation = "none"
    sampled_vocabulary: bool = False
    max_document: int = 1024
    max_question: int = 128
    max_answer: int = 24
    c_kl: float = 0.1
    c_norm: float = 0.0
    locality_batch: int = 1
    locality_tokens: int = 1024
    lr: float = 1e-5
    body_lr: float = 0.0
    accumulation: int = 4
    clip: float = 1e9
    plateau: int = 0
    epochs: int = 50
    max_steps: int = 0
    minutes: float = 0.0
    validate_every: int = 400
    seed: int = 0
    weighter: WeighterSpec = field(default_factory=WeighterSpec)

    def __post_init__(self) -> None:
        where = f"preset {self.name!r}: "
        for key in ("update_batch_size", "reset_base_freq", "max_document", "max_question",
                    "max_answer", "locality_batch", "locality_tokens", "accumulation", "epochs",
                    "validate_every"):  # fmt: skip
            check_int(where + key, getattr(self, key), 1, 10**9)
        for key in ("plateau", "max_steps", "seed"):
            check_int(where + key, getattr(self, key), 0, 2**53)
        for key in ("inner_lr", "c_kl", "c_norm", "lr", "body_lr", "minutes"):
            check_number(where + key, getattr(self, key), 0.0, 1e6)
        check_number(where + "clip", self.clip, 0.0, 1e12)
        for key, of in (
            ("reset_base_freq", "update_batch_size"),
            ("validate_every", "accumulation"),
        ):
            if getattr(self, key) % getattr(self, of):
                raise InvalidInput(
                    f"{where}{key} is {getattr(self, key)}, which is no multiple of"
                    f" {of} = {getattr(self, of)}"
                )


@dataclass(frozen=True)
class Lesson:
    """A document to step on, and the questions that are asked after it."""

    document: TokenSequence
    questions: tuple[TokenSequence, ...]


@dataclass(frozen=True)
class Losses:
    """The parts of the outer objective, each a scalar tensor; ``total`` is their weighted sum."""

    total: Tensor
    qa: Tensor
    kl: Tensor
    norm: Tensor

    def to_dict(self) -> dict[str, float]:
        """The parts as numbers."""
        return {name: float(getattr(self, name).detach()) for name in _PARTS}


def passages_of(tasks: Sequence[Task]) -> list[TrainingPassage]:
    """Each passage that answers some question, once, with all its question-answer pairs."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for task in tasks:
        for place in task.gold[:1]:
            pairs.setdefault(task.passages[place], []).append((task.question, task.answer))
    return [TrainingPassage(title, text, qa=tuple(qa)) for (title, text), qa in pairs.items()]


def lesson_of(
    passage: TrainingPassage,
    encoder: PromptEncoder,
    *,
    max_document: int = 1024,
    max_question: int = 128,
    max_answer: int = 24,
) -> Lesson:
    """A passage and its ``qa`` as token sequences, blind: the passage is not in the prompts.

    Args:
        max_document, max_question, max_answer: longer ones are cut to so many tokens.

    Raises:
        InvalidInput: for a passage without question-answer pairs, or without a token.
    """
    document = document_sequence(encoder, passage.title, passage.text, max_document)
    if not passage.qa or len(document.ids) <= max(document.loss_from, 1):
        raise InvalidInput(
            f"passage {passage.title or passage.text[:40]!r} has no question or no text to learn"
        )
    questions = []
    for question, answer in passage.qa:
        asked = encoder.text(question)
        short = question if len(asked) <= max_question else encoder.decode(asked[:max_question])
        prompt = encoder.blind(short)
        questions.append(
            TokenSequence((*prompt, *encoder.answer(answer)[:max_answer]), len(prompt))
        )
    return Lesson(document, tuple(questions))


def update(
    space: Space,
    state: State,
    documents: Sequence[TokenSequence],
    weights: Tensor,
    settings: CamelsSettings,
    *,
    vocabulary: Vocabulary | None = None,
    create_graph: bool = True,
) -> State:
    """The state after the documents.

    Args:
        state: leaves, or part of a graph.
        weights: ``(B, T)`` of the padded documents; computed once, before the first step.
        settings: how to step.
        vocabulary: of the inner softmax.
        create_graph: False where no gradient for the weights is wanted.
    """
    firsts = [max(document.loss_from, 1) for document in documents]
    positions = max(len(d.ids) - first for d, first in zip(documents, firsts, strict=True))
    own = [weights[i, firsts[i] : len(d.ids)] for i, d in enumerate(documents)]
    groups = [[i] for i in range(len(documents))]
    if not settings.sequential_update:
        groups = [list(range(len(documents)))]
    for group in groups:
        each = torch.cat([own[i] for i in group])
        scaled = normalised(each, settings.normalisation, positions, len(group))
        with twice_differentiable():
            loss = space.loss(state, [documents[i] for i in group], scaled, vocabulary)
            state = sgd_step(space, state, loss, settings.inner_lr, create_graph=create_graph)
            state = state if create_graph else leaves(state)
    return state


def objective(
    space: Space,
    weigh: Weigh,
    lessons: Sequence[Lesson],
    state: State,
    locality: Sequence[TokenSequence],
    settings: CamelsSettings,
    *,
    vocabulary: Vocabulary | None = None,
    create_graph: bool = True,
) -> tuple[Losses, State]:
    """The outer losses of one update batch, and the state after it without history.

    With ``per_passage`` each document steps from ``state`` alone and is asked its own questions,
    the locality KL is that of the first one, and the state stays what it was.
    """
    before = leaves(state)
    documents = [lesson.document for lesson in lessons]
    ids, mask, _ = pad(documents, state[0].device)
    weights = weigh(ids, mask)
    if settings.per_passage:
        apart = [
            update(
                space, before, [document], weights[row : row + 1], settings,
                vocabulary=vocabulary, create_graph=create_graph,
            )
            for row, document in enumerate(documents)
        ]  # fmt: skip
        asked = [space.loss(a, lesson.questions) for a, lesson in zip(apart, lessons, strict=True)]
        qa, after, carried = torch.stack(asked).mean(), apart[0], before
    else:
        after = carried = update(
            space, before, documents, weights, settings,
            vocabulary=vocabulary, create_graph=create_graph,
        )  # fmt: skip
        qa = space.loss(after, [q for lesson in lessons for q in lesson.questions])
    zero = qa.new_zeros(())
    kl = locality_kl(space, before, after, locality) if settings.c_kl and locality else zero
    own = torch.cat([weights[i, d.loss_from : len(d.ids)] for i, d in enumerate(documents)])
    norm = (own - 1).square().mean()
    total = qa + settings.c_kl * kl
    if settings.c_norm:
        total = total + settings.c_norm * norm
    return Losses(total, qa, kl, norm), tuple(tensor.detach() for tensor in carried)


def locality_kl(
    space: Space, before: State, after: State, sequences: Sequence[TokenSequence]
) -> Tensor:
    """KL(p_before || p_after) of the next token, the mean over tokens; gradient for ``after``."""
    with torch.no_grad():
        old = space.log_probabilities(before, sequences).detach()
    new = space.log_probabilities(after, sequences)
    return (old.exp() * (old - new)).sum(-1).mean()
