"""The meta-gradient, against finite differences and against peft with functional_call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from meta_making import adapted_model, key_value_tasks, lessons, warm_start
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import InvalidInput
from adapterdb.training.meta.alpha import StepSizes
from adapterdb.training.meta.inner_step import InnerStep, adapted_rows
from adapterdb.training.meta.objective import (
    Lesson,
    MetaInitSettings,
    distracted,
    lesson_of,
    outer_loss,
    units_of,
)
from adapterdb.training.start import Start

SETTINGS = MetaInitSettings("tiny", inner=InnerStep(passages=2))
TASKS = key_value_tasks(0, 3)


@pytest.fixture
def double(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel, Start]:
    """A tiny model and a warm start in float64 (BERT: Llama's norms are in float32)."""
    base = load_base_model(str(tiny_folder("bert")), dtype="float32")
    base.model.double()
    adapted = adapted_model(base)
    start = warm_start(adapted, alpha=0.5)
    return base, adapted, Start(start.theta.double(), start.alpha.double())


@pytest.mark.parametrize("mode", ["tie", "full", "same", "fix"])
@pytest.mark.parametrize("outer", ["answer_ce", "kl_to_prompted"])
def test_meta_gradient_agrees_with_finite_differences(
    double: tuple[BaseModel, AdaptedModel, Start], mode: str, outer: str
) -> None:
    """Along random directions of theta and of alpha's own numbers, through the inner step."""
    base, adapted, start = double
    settings = replace(SETTINGS, outer=outer)  # type: ignore[arg-type]
    some = lessons(TASKS, settings, base)
    theta = start.theta.clone().requires_grad_()
    alpha = StepSizes(adapted.layout, start.alpha, mode)  # type: ignore[arg-type]
    outer_loss(adapted, theta, alpha(), some, settings).backward()
    torch.manual_seed(1)
    for leaf in [theta, *alpha.parameters()]:
        assert leaf.grad is not None
        direction = torch.randn_like(leaf)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                leaf += sign * 1e-5 * direction
            values.append(outer_loss(adapted, theta, alpha(), some, settings).detach())
            with torch.no_grad():
                leaf -= sign * 1e-5 * direction
        slope = (values[0] - values[1]) / 2e-5
        assert slope.abs() > 1e-6
        torch.testing.assert_close((leaf.grad * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def by_functional_call(
    base: BaseModel, adapted: AdaptedModel, start: Start, some: Sequence[Lesson]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients for theta ``(P,)`` and one alpha a tensor, as Meta-PG computes them."""
    layout = adapted.layout
    config = peft.LoraConfig(
        r=layout.rank, lora_alpha=layout.alpha, lora_dropout=0.0,
        target_modules=[site.name for site in layout.sites],
    )  # fmt: skip
    model = peft.get_peft_model(base.model, config).double().eval()
    theta: dict[str, Tensor] = {}
    alpha: dict[str, Tensor] = {}
    for i, (name, pair) in enumerate(layout.unpack(start.theta).items()):
        for letter, tensor in zip("AB", pair, strict=True):
            key = f"base_model.model.{name}.lora_{letter}.default.weight"
            theta[key] = tensor.clone().requires_grad_()
            alpha[key] = torch.tensor(0.3 + 0.01 * i, dtype=torch.float64, requires_grad=True)

    def loss_of(weights: dict[str, Tensor], ids: Sequence[int], first: int) -> Tensor:
        tokens = torch.tensor([ids])
        logits = torch.func.functional_call(model, weights, kwargs={"input_ids": tokens}).logits
        return F.cross_entropy(logits[0, first - 1 : -1], tokens[0, first:])

    total = torch.zeros((), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        for lesson in some:
            inner = sum(loss_of(theta, d.ids, 1) for d in lesson.documents)
            found = torch.autograd.grad(inner, list(theta.values()), create_graph=True)  # type: ignore[arg-type]
            moved = {key: theta[key] - alpha[key] * g for key, g in zip(theta, found, strict=True)}
            asked = lesson.asked[0]
            total = total + loss_of(moved, asked.ids, asked.loss_from) / len(some)
        grads = torch.autograd.grad(total, [*theta.values(), *alpha.values()])
    factors = {site.name: (grads[2 * i], grads[2 * i + 1]) for i, site in enumerate(layout.sites)}
    row = layout.pack(factors, torch.zeros(layout.size, dtype=torch.float64))
    model.unload()
    return total.detach(), row, torch.stack(grads[2 * len(layout.sites) :])


def test_meta_gradient_agrees_with_peft(double: tuple[BaseModel, AdaptedModel, Start]) -> None:
    """Tied alpha, two separate passages: loss and both gradients as written out with peft."""
    base, adapted, start = double
    some = lessons(TASKS, SETTINGS, base)
    assert all(len(lesson.documents) == 2 for lesson in some)
    want_loss, want_theta, want_alpha = by_functional_call(base, adapted, start, some)
    row = torch.zeros(adapted.layout.size, dtype=torch.float64)
    for i in range(len(adapted.layout.sites)):
        adapted.layout.a(row, i).fill_(0.3 + 0.01 * i)
        adapted.layout.b(row, i).fill_(0.3 + 0.01 * i)
    theta, alpha = start.theta.clone().requires_grad_(), StepSizes(adapted.layout, row, "tie")
    loss = outer_loss(adapted, theta, alpha(), some, SETTINGS)
    loss.backward()
    torch.testing.assert_close(loss.detach(), want_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(theta.grad, want_theta, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(alpha.values.grad, want_alpha, rtol=1e-5, atol=1e-8)


def test_first_order_leaves_the_inner_curvature_out(
    double: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """The same loss; theta's gradient is the one at theta', alpha's is unchanged."""
    base, adapted, start = double
    some = lessons(TASKS, SETTINGS, base)
    grads: list[Any] = []
    for second_order in (True, False):
        theta = start.theta.clone().requires_grad_()
        alpha = StepSizes(adapted.layout, start.alpha, "tie")
        settings = replace(SETTINGS, second_order=second_order)
        outer_loss(adapted, theta, alpha(), some, settings).backward()
        grads.append((theta.grad, alpha.values.grad))
    torch.testing.assert_close(grads[0][1], grads[1][1])
    assert (grads[0][0] - grads[1][0]).norm() > 1e-3 * grads[0][0].norm()


def test_outer_losses_differ(double: tuple[BaseModel, AdaptedModel, Start]) -> None:
    """ntp is the passages' own loss at theta; the KL needs no answer to be right."""
    base, adapted, start = double
    theta, found = start.theta.clone().requires_grad_(), {}
    for outer in ("answer_ce", "kl_to_prompted", "ntp"):
        settings = replace(SETTINGS, outer=outer)  # type: ignore[arg-type]
        some = lessons(TASKS, settings, base)
        found[outer] = outer_loss(adapted, theta, start.alpha, some, settings)
    assert len({round(float(x.detach()), 6) for x in found.values()}) == 3
    (gradient,) = torch.autograd.grad(found["ntp"], theta)
    some = lessons(TASKS, SETTINGS, base)
    documents = {d for lesson in some for d in lesson.documents}
    losses = []
    for document in documents:
        ids = torch.tensor([document.ids])
        with adapted.using_rows(theta[None]) as model:
            losses.append(F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:]))
    torch.testing.assert_close(found["ntp"], sum(losses) / len(losses), rtol=1e-6, atol=0)
    assert gradient.norm() > 0


def test_kl_is_zero_where_the_blind_model_says_what_the_prompted_one_says(
    double: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Without a delta, and with the same prompt on both sides, there is nothing to learn."""
    base, adapted, start = double
    settings = replace(SETTINGS, outer="kl_to_prompted")
    some = [replace(x, asked=x.prompted) for x in lessons(TASKS, settings, base)]
    zero = torch.zeros_like(start.theta).requires_grad_()
    loss = outer_loss(adapted, zero, torch.zeros_like(start.alpha), some, settings)
    assert abs(float(loss.detach())) < 1e-9
    with pytest.raises(InvalidInput, match="nothing to learn"):
        replace(settings, visible=True)


def test_kl_is_of_the_prompted_predictions_from_the_adapted_ones(
    double: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """KL(prompted base || blind under theta'), the mean over answer tokens, written out."""
    base, adapted, start = double
    settings = replace(SETTINGS, outer="kl_to_prompted")
    some = lessons(TASKS[:1], settings, base)
    theta = start.theta.clone().requires_grad_()
    loss = outer_loss(adapted, theta, start.alpha, some, settings)
    contexts = [some[0].documents]
    row = adapted_rows(adapted, contexts, start, settings.inner)
    chances = []
    for given, sequence in ((None, some[0].prompted[0]), (row, some[0].asked[0])):
        with adapted.using_rows(given) as model:
            logits = model(input_ids=torch.tensor([sequence.ids])).logits[0]
        chances.append(logits[sequence.loss_from - 1 : -1].softmax(-1))
    prompted, blind = chances
    want = (prompted * (prompted / blind).log()).sum(-1).mean()
    torch.testing.assert_close(loss.detach(), want, rtol=1e-6, atol=0)


def test_lessons(double: tuple[BaseModel, AdaptedModel, Start]) -> None:
    """Blind prompts don't hold the passage, visible ones do; questions of a passage are shared."""
    base, generator = double[0], torch.Generator()
    (first, *_), text = TASKS, TASKS[0].passages[0][1]
    blind = lesson_of([first], SETTINGS, base.encoder, generator).asked[0]
    shown = lesson_of([first], replace(SETTINGS, visible=True), base.encoder, generator).asked[0]
    assert text not in base.encoder.decode(blind.ids)
    assert text in base.encoder.decode(shown.ids)
    assert blind.ids[blind.loss_from :] == shown.ids[shown.loss_from :]
    assert base.encoder.decode(blind.ids[blind.loss_from :]).strip() == first.answer
    second = replace(first, id="x", question="why?")
    grouped = units_of([first, TASKS[1], second], replace(SETTINGS, questions=3))
    assert [[t.id for t in unit] for unit in grouped] == [["0", "x"], ["1"]]
    asked = lesson_of(grouped[0], replace(SETTINGS, questions=3), base.encoder, generator).asked
    assert len(asked) == 3
    assert len(set(asked)) == 2


def test_distractors_are_other_lessons_documents(
    double: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Each lesson gets the first document of the one after it, and keeps its own in front."""
    some = lessons(TASKS, SETTINGS, double[0])
    more = distracted(some, 1)
    for i, lesson in enumerate(more):
        assert lesson.documents == (*some[i].documents, some[(i + 1) % 3].documents[0])
        assert lesson.asked == some[i].asked
    assert distracted(some, 0) == some
