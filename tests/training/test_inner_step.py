"""The inner step: separate gradients that add up, and what a row becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meta_making import adapted_model, key_value_tasks, warm_start

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import InvalidInput
from adapterdb.training import bank
from adapterdb.training.meta.inner_step import InnerStep, adapt, adapted_rows, stepped
from adapterdb.training.start import Start

PASSAGES = [("Boats", "Mara rowed."), ("", "Nine farms lie there."), ("Hills", "Oste is far.")]


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel, Start]:
    """A tiny model and a start for it."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    adapted = adapted_model(base)
    return base, adapted, warm_start(adapted)


def test_separate_gradients_add_up_in_any_order(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Three passages' row is theta - alpha * (g1 + g2 + g3), each at theta, in every order."""
    base, adapted, start = made
    one = InnerStep(passages=0)
    moved = [adapt(adapted, base.encoder, [p], start) - start.theta for p in PASSAGES]
    assert all(m.abs().max() > 1e-4 for m in moved)
    row = adapt(adapted, base.encoder, PASSAGES, start)
    torch.testing.assert_close(row, start.theta + sum(moved), atol=1e-6, rtol=0)
    back = adapt(adapted, base.encoder, PASSAGES[::-1], start)
    torch.testing.assert_close(back, row, atol=1e-6, rtol=0)
    mean = adapt(adapted, base.encoder, PASSAGES, start, inner=replace(one, combine="mean"))
    torch.testing.assert_close(mean, start.theta + sum(moved) / 3, atol=1e-6, rtol=0)
    half = adapt(adapted, base.encoder, PASSAGES, start, 0.5)
    torch.testing.assert_close(half, start.theta + sum(moved) / 2, atol=1e-6, rtol=0)


def test_joined_is_one_gradient_of_one_text(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Joined passages are one document that holds all texts; its step is not the separate one."""
    base, adapted, start = made
    joined = InnerStep(passages=0, joined=True)
    (document,) = joined.documents(PASSAGES, base.encoder)
    text = base.encoder.decode(document.ids)
    assert all(passage[1] in text for passage in PASSAGES)
    assert text.index("Passage 1") < text.index("Passage 3")
    row = adapt(adapted, base.encoder, PASSAGES, start, inner=joined)
    assert (row - adapt(adapted, base.encoder, PASSAGES, start)).abs().max() > 1e-4
    assert len(replace(joined, max_context=9).documents(PASSAGES, base.encoder)[0].ids) == 9


def test_light_and_differentiable_steps_agree(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """What meta-training differentiates is what is used, also for two steps and shared passages."""
    base, adapted, start = made
    for inner in (InnerStep(passages=0), InnerStep(passages=0, steps=2)):
        contexts = [
            inner.documents(p, base.encoder) for p in (PASSAGES[:2], PASSAGES[1:], PASSAGES[:1])
        ]
        theta = start.theta.clone().requires_grad_()
        rows = stepped(adapted, theta, start.alpha, contexts, inner)
        used = adapted_rows(adapted, contexts, start, inner, at_once=2)
        torch.testing.assert_close(rows.detach(), used, atol=1e-6, rtol=0)


def test_second_step_is_taken_at_the_first_one(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Two steps are one step, and another from where it led."""
    base, adapted, start = made
    two = adapt(adapted, base.encoder, PASSAGES[:1], start, inner=InnerStep(steps=2))
    first = adapt(adapted, base.encoder, PASSAGES[:1], start, inner=InnerStep())
    document = InnerStep().documents(PASSAGES[:1], base.encoder)
    _, gradient = bank.gradients(adapted, first[None], [document])
    torch.testing.assert_close(two, first - start.alpha * gradient[0], atol=1e-6, rtol=0)


def test_passages_that_answer_come_first() -> None:
    """K passages are the ones that answer, then others; only_related leaves the others out."""
    task = replace(key_value_tasks(0, 1)[0], gold=(1,))
    assert InnerStep(passages=1).chosen(task) == [task.passages[1]]
    assert InnerStep(passages=0).chosen(task) == [task.passages[1], task.passages[0]]
    assert InnerStep(passages=0, only_related=True).chosen(task) == [task.passages[1]]


def test_nothing_to_adapt_to(made: tuple[BaseModel, AdaptedModel, Start]) -> None:
    """No passage is an error, not theta."""
    base, adapted, start = made
    with pytest.raises(InvalidInput):
        adapt(adapted, base.encoder, [], start)
