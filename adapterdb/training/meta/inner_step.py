"""From passages to one row: the inner step of Meta-PG and ReGrad.

    g_k    = d/d theta  mean next-token CE of passage k at theta      each k on its own
    theta' = theta - gamma * alpha * sum_k w_k g_k                    w_k = 1 (sum) or 1 / K (mean)

All gradients are taken at the same theta, so they add up, in any order, and can be kept apart. With
``joined`` the K passages are one text and one gradient (Meta-PG). Knows no outer loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training import bank
from adapterdb.training.differentiable import Vocabulary, row_gradients
from adapterdb.training.objective import TokenSequence, document_sequence
from adapterdb.training.start import Start
from adapterdb.training.tasks import Task

Passage = tuple[str, str]
Context = Sequence[TokenSequence]
Gradient = Callable[[Tensor, list[list[TokenSequence]]], Tensor]


@dataclass(frozen=True)
class InnerStep:
    """How a task's passages become a step from theta.

    Args:
        passages: K, how many of a task's passages are used, those that answer it first; 0 for all.
        only_related: use only passages that answer it.
        joined: they are one text (Meta-PG) instead of separate gradients (ReGrad).
        combine: weights of separate gradients: 1 (``sum``) or 1 / K (``mean``).
        gamma: factor of the step.
        steps: how many steps, 1 to 3. More than one is for study: the gradients of a store are
            those of the first.
        max_context: a passage (joined: the text) is cut to this many tokens; 0 means to what the
            base model takes.
    """

    passages: int = 1
    only_related: bool = False
    joined: bool = False
    combine: Literal["sum", "mean"] = "sum"
    gamma: float = 1.0
    steps: int = 1
    max_context: int = 1536

    def __post_init__(self) -> None:
        check_int("inner: passages", self.passages, 0, 1000)
        check_number("inner: gamma", self.gamma, -1e3, 1e3)
        check_int("inner: steps", self.steps, 1, 3)
        check_int("inner: max_context", self.max_context, 0, 10**6)

    def chosen(self, task: Task) -> list[Passage]:
        """The passages of ``task`` that are used, those that answer it first."""
        gold = [task.passages[i] for i in task.gold]
        others = [p for i, p in enumerate(task.passages) if i not in task.gold]
        found = gold if self.only_related and gold else gold + others
        return found[: self.passages or None]

    def documents(self, passages: Sequence[Passage], encoder: PromptEncoder) -> list[TokenSequence]:
        """The sequences of the inner loss: one of each passage, or one of all of them."""
        if self.joined and len(passages) > 1:
            texts = [f"{title}: {text}" if title else text for title, text in passages]
            numbered = [f"Passage {i}: {text}" for i, text in enumerate(texts, start=1)]
            passages = [("", "\n\n".join(numbered))]
        return [document_sequence(encoder, *passage, self.max_context) for passage in passages]


def stepped(
    adapted: AdaptedModel,
    theta: Tensor,
    alpha: Tensor,
    contexts: Sequence[Context],
    inner: InnerStep,
    *,
    vocabulary: Vocabulary | None = None,
    create_graph: bool = True,
) -> Tensor:
    """theta' of each context, ``(G, P)``, differentiable in theta and alpha.

    Args:
        theta, alpha: ``(P,)``, theta requiring a gradient.
        contexts: the documents of each task, at least one; a document that several tasks have is
            computed once.
        vocabulary: of the inner softmax; None means all words.
        create_graph: False for the first-order approximation, in which gradients are constants.
    """

    def gradient(rows: Tensor, data: list[list[TokenSequence]]) -> Tensor:
        return row_gradients(adapted, rows, data, vocabulary=vocabulary, create_graph=create_graph)

    return _stepped(theta, alpha, contexts, inner, gradient)


def adapted_rows(
    adapted: AdaptedModel,
    contexts: Sequence[Context],
    start: Start,
    inner: InnerStep,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    at_once: int = 16,
) -> Tensor:
    """theta' of each context as it is used, ``(G, P)`` on the model's device, without a graph.

    Args:
        change: applied to the gradients ``(D, P)`` of the documents before they act (controls).
        at_once: documents in one forward.
    """
    device = next(adapted.model.parameters()).device

    def gradient(rows: Tensor, data: list[list[TokenSequence]]) -> Tensor:
        parts = [
            bank.gradients(adapted, rows[i : i + at_once].clone(), data[i : i + at_once])[1]
            for i in range(0, len(data), at_once)
        ]
        found = torch.cat(parts)
        return found if change is None else change(found)

    with torch.no_grad():
        return _stepped(start.theta.to(device), start.alpha.to(device), contexts, inner, gradient)


def adapt(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    passages: Sequence[Passage],
    start: Start,
    gamma: float = 1.0,
    *,
    inner: InnerStep | None = None,
) -> Tensor:
    """The row ``(P,)`` that knows ``passages``: the start and one step (Meta-PG's adapt).

    Nothing has to be recovered afterwards: the start is left as it is.

    Args:
        passages: ``(title, text)``, each a gradient of its own.
        gamma: factor of the step.
        inner: another way to combine them; its own ``gamma`` counts then.

    Raises:
        InvalidInput: if there is no passage.
    """
    if not passages:
        raise InvalidInput("there is no passage to adapt to")
    how = inner or InnerStep(passages=0, gamma=gamma, max_context=0)
    return adapted_rows(adapted, [how.documents(passages, encoder)], start, how)[0]


def _stepped(
    theta: Tensor, alpha: Tensor, contexts: Sequence[Context], inner: InnerStep, gradient: Gradient
) -> Tensor:
    pairs = [(owner, d) for owner, context in enumerate(contexts) for d in context]
    # beyond the first step tasks are at different rows, and nothing can be shared
    keys = [d if inner.steps == 1 else (owner, d) for owner, d in pairs]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    documents: list[list[TokenSequence]] = [[] for _ in places]
    owners = [0] * len(places)
    weights = theta.new_zeros(len(contexts), len(places))
    for (owner, document), key in zip(pairs, keys, strict=True):
        place = places[key]
        documents[place], owners[place] = [document], owner
        weights[owner, place] += 1 / len(contexts[owner]) if inner.combine == "mean" else 1.0
    rows = theta.expand(len(contexts), -1)
    for step in range(inner.steps):
        at = rows[owners] if step else theta.expand(len(documents), -1).contiguous()
        rows = rows - inner.gamma * alpha * (weights @ gradient(at, documents))
    return rows
