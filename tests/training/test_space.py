"""Weighted losses, inner steps and their gradients: by hand, in plain loops, by differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from camels_making import PASSAGES, tiny

from adapterdb.errors import InvalidInput
from adapterdb.training.camels.objective import (
    CamelsSettings,
    lesson_of,
    locality_kl,
    objective,
    update,
)
from adapterdb.training.camels.space import Rows, Space, Whole, leaves, normalised, sgd_step
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.weights.weighter import WeighterSpec, weighter_of

SETTINGS = CamelsSettings(inner_lr=0.3, c_norm=0.2)


def test_padded_mean_by_hand() -> None:
    """``none`` divides by rows times positions with padding, the others by labelled tokens."""
    weights, losses = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    # two documents of 3 and 2 tokens, padded to 5: 2 x 4 positions, 3 labelled tokens
    none = (losses * normalised(weights, "none", positions=4, rows=2)).mean()
    assert float(none) == pytest.approx((0.5 + 2.0 + 6.0) / 8)
    valid = (losses * normalised(weights, "valid_tokens", positions=4, rows=2)).mean()
    assert float(valid) == pytest.approx(8.5 / 3)
    to_len = (losses * normalised(weights, "sum_to_len", positions=4, rows=2)).mean()
    assert float(to_len) == pytest.approx(8.5 / 3 / 2)
    with pytest.raises(InvalidInput, match="mean"):
        normalised(weights, "mean")


@pytest.mark.parametrize("where", ["rows", "weights"])
def test_weighted_loss_is_the_originals(tiny_folder: Callable[[str], Path], where: str) -> None:
    """The loss of a padded batch is mean over batch x (L - 1) of w at t+1 times the loss at t."""
    t = tiny(tiny_folder)
    space: Space = t.rows if where == "rows" else Whole(t.base.model)
    documents = [lesson_of(p, t.base.encoder).document for p in PASSAGES[:2]]
    ids, mask, _ = pad(documents, torch.device("cpu"))
    weights = torch.rand(ids.shape, dtype=torch.float64) * mask
    state = space.begin()
    if where == "rows":
        with t.rows.adapted.using_rows(state[0][None]) as model:
            logits = model(input_ids=ids, attention_mask=mask).logits
    else:
        logits = t.base.model(input_ids=ids, attention_mask=mask).logits
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    want = (weights[:, 1:] * each).mean()
    own = torch.cat([weights[i, 1 : len(d.ids)] for i, d in enumerate(documents)])
    scaled = normalised(own, "none", ids.shape[1] - 1, 2)
    torch.testing.assert_close(space.loss(state, documents, scaled), want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("where", ["rows", "weights"])
def test_sequential_update_is_sgd_in_order(tiny_folder: Callable[[str], Path], where: str) -> None:
    """Six documents are six plain SGD steps; another order ends elsewhere."""
    t = tiny(tiny_folder)
    space: Space = t.rows if where == "rows" else Whole(t.base.model)
    documents = [lesson_of(p, t.base.encoder).document for p in (PASSAGES * 2)[:6]]
    ids, mask, _ = pad(documents, torch.device("cpu"))
    weights = torch.rand(ids.shape, dtype=torch.float64) * mask
    got = update(space, leaves(space.begin()), documents, weights, SETTINGS)
    plain = [tensor.clone().requires_grad_() for tensor in space.begin()]
    optimizer = torch.optim.SGD(plain, lr=SETTINGS.inner_lr)
    for row, document in enumerate(documents):
        n = len(document.ids)
        whole = weights[row, 1:n] * ((n - 1) / (ids.shape[1] - 1))
        optimizer.zero_grad()
        space.loss(tuple(plain), [document], whole).backward()
        optimizer.step()
    for a, b in zip(got, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    back = update(space, leaves(space.begin()), documents[::-1], weights.flip(0), SETTINGS)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(got, back, strict=True)) > 1e-6


def test_one_step_on_all(tiny_folder: Callable[[str], Path]) -> None:
    """Without ``sequential_update`` there is one step, on the padded mean of the batch."""
    t = tiny(tiny_folder)
    documents = [lesson_of(p, t.base.encoder).document for p in PASSAGES]
    ids, mask, _ = pad(documents, torch.device("cpu"))
    settings = replace(SETTINGS, sequential_update=False)
    (got,) = update(t.rows, leaves(t.rows.begin()), documents, mask.double(), settings)
    (theta,) = leaves(t.rows.begin())
    labelled = sum(len(d.ids) - 1 for d in documents)
    loss = t.rows.loss((theta,), documents) * labelled / (ids.shape[0] * (ids.shape[1] - 1))
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(got, theta - 0.3 * gradient)


def test_own_steps_scale_the_gradient(tiny_folder: Callable[[str], Path]) -> None:
    """With ``own_steps`` a number moves by lr times its own alpha times its gradient."""
    t = tiny(tiny_folder)
    scaled = Rows(t.rows.adapted, t.start, own_steps=True)
    document = lesson_of(PASSAGES[0], t.base.encoder).document
    moves = []
    for space in (t.rows, scaled):
        state = leaves(space.begin())
        (after,) = sgd_step(space, state, space.loss(state, [document]), 0.1)
        moves.append((after - state[0]).detach())
    torch.testing.assert_close(moves[1], 0.5 * moves[0])


@pytest.mark.parametrize("how", ["sequential", "together", "per_passage", "whole", "own_steps"])
def test_meta_gradient_against_differences(tiny_folder: Callable[[str], Path], how: str) -> None:
    """The outer loss changes with the weighter's parameters as its gradient says, in float64."""
    t = tiny(tiny_folder)
    space: Space = Whole(t.base.model) if how == "whole" else t.rows
    if how == "own_steps":
        space = Rows(t.rows.adapted, t.start, own_steps=True)
    settings = replace(
        SETTINGS,
        inner_lr=0.05 if how == "whole" else 0.5,
        sequential_update=how != "together",
        per_passage=how == "per_passage",
    )
    weighter = weighter_of(t.base.model, t.base.encoder, WeighterSpec()).double()
    torch.manual_seed(1)
    torch.nn.init.normal_(weighter.head[2].weight, std=0.3)
    lessons = [lesson_of(p, t.base.encoder) for p in PASSAGES[:3]]
    locality = [TokenSequence(tuple(t.base.encoder.plain("", "The sea is wide.")))]
    parameters = list(weighter.trained().values())

    def outer() -> torch.Tensor:
        return objective(space, weighter, lessons, space.begin(), locality, settings)[0].total

    gradients = torch.autograd.grad(outer(), parameters, materialize_grads=True)
    directions = [
        torch.randn_like(p) * (g != 0) for p, g in zip(parameters, gradients, strict=True)
    ]
    ends = []
    for sign in (1, -1):
        for p, d in zip(parameters, directions, strict=True):
            p.data.add_(d, alpha=sign * 1e-5)
        ends.append(float(outer().detach()))
        for p, d in zip(parameters, directions, strict=True):
            p.data.sub_(d, alpha=sign * 1e-5)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert abs(slope) > 1e-6
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_locality_kl(tiny_folder: Callable[[str], Path]) -> None:
    """The KL is 0 for a step of nothing, positive after a real one, and that of plain logits."""
    t = tiny(tiny_folder)
    before = leaves(t.rows.begin())
    text = [TokenSequence(tuple(t.base.encoder.plain("", "The sea is wide.")))]
    assert float(locality_kl(t.rows, before, before, text).detach()) == pytest.approx(0, abs=1e-12)
    document = lesson_of(PASSAGES[0], t.base.encoder).document
    after = sgd_step(t.rows, before, t.rows.loss(before, [document]), 100.0)
    got = float(locality_kl(t.rows, before, after, text).detach())
    logits = []
    for state in (before, after):
        with t.rows.adapted.using_rows(state[0][None]) as model, torch.no_grad():
            logits.append(model(torch.tensor([text[0].ids])).logits[0])
    want = F.kl_div(logits[1].log_softmax(-1), logits[0].softmax(-1), reduction="none").sum(-1)
    assert got > 1e-6
    assert got == pytest.approx(float(want.mean()), rel=1e-5)


def test_outer_loss_is_of_answers_alone(tiny_folder: Callable[[str], Path]) -> None:
    """With steps of size 0 the outer loss is the plain answer loss of all questions, and norms."""
    t = tiny(tiny_folder)
    lessons = [lesson_of(p, t.base.encoder) for p in PASSAGES[:2]]
    settings = replace(SETTINGS, inner_lr=0.0, c_kl=0.0)
    weights = torch.full((2, 40), 3.0, dtype=torch.float64)
    losses, _ = objective(
        t.rows, lambda ids, mask: weights[:, : ids.shape[1]] * mask, lessons, t.rows.begin(), [],
        settings,
    )  # fmt: skip
    sums, counts = 0.0, 0
    for lesson in lessons:
        for question in lesson.questions:
            ids = torch.tensor([question.ids])
            with t.rows.adapted.using_rows(t.rows.begin()[0][None]) as model, torch.no_grad():
                logs = model(ids).logits[0].log_softmax(-1)
            for at in range(question.loss_from, len(question.ids)):
                sums -= float(logs[at - 1, question.ids[at]])
                counts += 1
    assert float(losses.qa.detach()) == pytest.approx(sums / counts, rel=1e-5)
    assert float(losses.norm) == pytest.approx(4.0)
    assert losses.to_dict()["total"] == pytest.approx(sums / counts + 0.2 * 4.0, rel=1e-5)


def test_lessons_are_cut_and_blind(tiny_folder: Callable[[str], Path]) -> None:
    """Documents, questions and answers are cut to their lengths; answers end in the stop."""
    t = tiny(tiny_folder)
    lesson = lesson_of(PASSAGES[0], t.base.encoder, max_document=5, max_question=4, max_answer=3)
    assert len(lesson.document.ids) == 5
    (question,) = lesson.questions
    assert len(question.ids) - question.loss_from == 3
    prompt = t.base.encoder.decode(question.ids[: question.loss_from])
    assert "Who" in prompt
    assert "Who rowed" not in prompt
    whole = lesson_of(PASSAGES[0], t.base.encoder).questions[0]
    assert t.base.encoder.decode(whole.ids[whole.loss_from :]) == " Mara\n"
    assert PASSAGES[0].text not in t.base.encoder.decode(whole.ids)
    with pytest.raises(InvalidInput, match="no question"):
        lesson_of(replace(PASSAGES[0], qa=()), t.base.encoder)


def test_a_documents_prompt_is_not_stepped_on(tiny_folder: Callable[[str], Path]) -> None:
    """The step is on the weighed loss of a document's text; weights of its prompt count nothing."""
    t = tiny(tiny_folder)
    whole = lesson_of(PASSAGES[0], t.base.encoder).document
    first = 9
    document = replace(whole, loss_from=first)
    weights = torch.rand(1, len(whole.ids), dtype=torch.float64)
    (got,) = update(t.rows, leaves(t.rows.begin()), [document], weights, SETTINGS)
    (theta,) = leaves(t.rows.begin())
    loss = t.rows.loss((theta,), [document], weights[0, first:])
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(got, theta - SETTINGS.inner_lr * gradient)
    weights[0, :first] = 7.0
    (same,) = update(t.rows, leaves(t.rows.begin()), [document], weights, SETTINGS)
    torch.testing.assert_close(same, got, rtol=0, atol=0)
    weights[0, first:] = 1.0
    lesson = replace(lesson_of(PASSAGES[0], t.base.encoder), document=document)
    losses, _ = objective(
        t.rows, lambda *_: weights, [lesson], leaves(t.rows.begin()), [], SETTINGS
    )
    assert float(losses.norm) == 0
