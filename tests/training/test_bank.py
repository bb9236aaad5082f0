"""A passage fitted in a bank must be the passage fitted alone by peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import Rejected
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.training import bank
from adapterdb.training.differentiable import passage_losses, row_gradients
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence, TrainingPassage, sequences_of
from adapterdb.training.recipes import Normalize, Optimizer, Recipe, get_recipe
from adapterdb.training.start import Start, base_weight

QA = (("Who rowed?", "Mara"), ("Where to?", "Oste"), ("When?", "in 1804"))
PASSAGES = [
    TrainingPassage("Boats", "Mara rowed to Oste in 1804.", "In 1804 Mara went to Oste.", QA),
    TrainingPassage("", "A short one.", "One that is short.", QA[:2]),
    TrainingPassage("Hills", "The long hill road winds past nine farms and a mill.", "Nine.", QA),
]


def tiny(tiny_folder: Callable[[str], Path], kind: str) -> BaseModel:
    """A tiny base model in float32."""
    return load_base_model(str(tiny_folder(kind)), dtype="float32")


def serial_peft(
    base: BaseModel, layout: Any, start: Start, passage: TrainingPassage, recipe: Recipe
) -> torch.Tensor:
    """The row that peft and torch's optimizers make of one passage, ``batch`` sequences a step."""
    config = peft.LoraConfig(
        r=layout.rank,
        lora_alpha=layout.alpha,
        target_modules=[site.name for site in layout.sites],
        lora_dropout=0.0,
        fan_in_fan_out=type(base.model).__name__.startswith("GPT2"),
    )
    model = peft.get_peft_model(base.model, config)
    state = {}
    for name, (a, b) in layout.unpack(start.theta).items():
        state[f"base_model.model.{name}.lora_A.default.weight"] = a
        state[f"base_model.model.{name}.lora_B.default.weight"] = b
    left = model.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.optimizer == "adamw"
        else torch.optim.SGD(weights, lr=recipe.lr)
    )
    sequences = sequences_of(passage, recipe, base.encoder)
    size = recipe.batch or len(sequences)
    for _ in range(recipe.epochs):
        for first in range(0, len(sequences), size):
            ids, mask, labels = pad(sequences[first : first + size], torch.device("cpu"))
            logits = model(input_ids=ids, attention_mask=mask).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    row = torch.zeros(layout.size)
    tuned = dict(model.named_parameters())
    factors = {
        site.name: tuple(
            tuned[f"base_model.model.{site.name}.lora_{x}.default.weight"].detach() for x in "AB"
        )
        for site in layout.sites
    }
    layout.pack(factors, row)  # type: ignore[arg-type]
    model.unload()
    return row


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("name", ["rg", "prag"])
def test_bank_equals_serial_peft(tiny_folder: Callable[[str], Path], kind: str, name: str) -> None:
    """Every row of a mixed batch equals peft's serial training of that passage, to 1e-5."""
    recipe = replace(get_recipe(name, has_meta_init=False), lr=3e-3, epochs=2)
    compare(tiny(tiny_folder, kind), recipe, LoraSpec(rank=2, targets=("all",)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_of_several_sequences_equal_serial_peft(
    tiny_folder: Callable[[str], Path], kind: str, batch: int, optimizer: Optimizer
) -> None:
    """Full and partial steps, on answers alone and upper layers alone, equal peft's own batches."""
    recipe = replace(
        get_recipe("prag-fast", has_meta_init=False), batch=batch, optimizer=optimizer, epochs=3,
        lr=3e-3 if optimizer == "adamw" else 0.05,
    )  # fmt: skip
    compare(tiny(tiny_folder, kind), recipe, LoraSpec(rank=2, layers="upper-half"))


def compare(base: BaseModel, recipe: Recipe, lora: LoraSpec) -> None:
    """Fit together and by peft; rows agree to 1e-5, losses fall and are those of the rows."""
    layout = plan_layout(lora, base.linears())
    start = base_weight(layout, seed=1)
    alone = [serial_peft(base, layout, start, passage, recipe) for passage in PASSAGES]
    adapted = AdaptedModel(base.model, layout)
    fitted = bank.fit(adapted, base.encoder, PASSAGES, recipe, start)
    adapted.remove()
    for got, want in zip(fitted.rows, alone, strict=True):
        assert (want - start.theta).abs().max() > 5e-4
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (fitted.loss_after < fitted.loss_before).all()
    adapted = AdaptedModel(base.model, layout)
    for rows, got in (
        (start.theta.expand(len(alone), -1), fitted.loss_before),
        (torch.stack(alone), fitted.loss_after),
    ):
        for row, passage, loss in zip(rows, PASSAGES, got, strict=True):
            data = [sequences_of(passage, recipe, base.encoder)]
            want = passage_losses(adapted, row[None], data)[0]
            torch.testing.assert_close(loss, want, atol=1e-4, rtol=1e-4)
    adapted.remove()


def test_result_does_not_depend_on_neighbours(tiny_folder: Callable[[str], Path]) -> None:
    """A passage's row is the same alone, in another order and in other company."""
    base = tiny(tiny_folder, "llama")
    layout = plan_layout(LoraSpec(), base.linears())
    start, adapted = base_weight(layout), AdaptedModel(base.model, layout)
    recipe = get_recipe("prag", has_meta_init=False)
    together = bank.fit(adapted, base.encoder, PASSAGES, recipe, start).rows
    backwards = bank.fit(adapted, base.encoder, PASSAGES[::-1], recipe, start).rows
    alone = bank.fit(adapted, base.encoder, PASSAGES[:1], recipe, start).rows
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_gradient_delta_is_the_gradient_at_the_start(
    tiny_folder: Callable[[str], Path],
) -> None:
    """A gradient row agrees with finite differences of the loss; A's part is 0 while B is."""
    base = tiny(tiny_folder, "bert")  # Llama norms in float32
    layout = plan_layout(LoraSpec(rank=2), base.linears())
    start, adapted = base_weight(layout), AdaptedModel(base.model.double(), layout)
    recipe = get_recipe("gradient", has_meta_init=False)
    data = [sequences_of(p, recipe, base.encoder) for p in PASSAGES]
    theta = start.theta.double().expand(len(data), -1)
    loss, got = bank.gradients(adapted, theta, data)
    torch.testing.assert_close(loss, bank.losses(adapted, theta, data))
    for i in range(len(layout.sites)):
        assert layout.a(got, i).abs().max() == 0
        assert layout.b(got, i).abs().max() > 0
    direction = torch.randn(layout.size, dtype=torch.float64) * (got[0] != 0)
    up = bank.losses(adapted, theta + 1e-6 * direction, data)
    down = bank.losses(adapted, theta - 1e-6 * direction, data)
    torch.testing.assert_close((up - down) / 2e-6, (got * direction).sum(-1), rtol=1e-4, atol=1e-8)
    base.model.float()


@pytest.mark.parametrize("normalize", ["valid_tokens", "sum_to_len"])
def test_weights_of_tokens_count_in_what_is_learned_only(
    tiny_folder: Callable[[str], Path], normalize: Normalize
) -> None:
    """The gradient is that of the mean of w * CE, scaled to mean 1 if asked; losses don't see w."""
    base = tiny(tiny_folder, "llama")
    layout = plan_layout(LoraSpec(rank=2), base.linears())
    start, adapted = base_weight(layout, seed=1), AdaptedModel(base.model, layout)
    recipe = replace(get_recipe("gradient", has_meta_init=False), normalize=normalize)

    def weigh(passages: Sequence[TrainingPassage]) -> list[tuple[float, ...]]:
        lengths = [len(base.encoder.document(p.title, p.text).text) for p in passages]
        return [tuple(0.5 + (i % 3) for i in range(n)) for n in lengths]

    fitted = bank.fit(adapted, base.encoder, PASSAGES, recipe, start, weigh)
    plain = bank.fit(adapted, base.encoder, PASSAGES, recipe, start)
    torch.testing.assert_close(fitted.loss_before, plain.loss_before)
    for passage, weights, got in zip(PASSAGES, weigh(PASSAGES), fitted.rows, strict=True):
        w = torch.tensor(weights[1:])
        if normalize == "sum_to_len":
            w = w / w.mean()
        data = [sequences_of(passage, recipe, base.encoder)]
        theta = start.theta[None].clone().requires_grad_()
        want = row_gradients(adapted, theta, data, weights=w, create_graph=False)[0]
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)
        assert (got - plain.rows[0]).abs().max() > 1e-4


def test_steps_too_large_for_one_forward_are_taken_in_parts(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passage of more tokens than one forward takes gets the same row and losses, in parts."""
    base = tiny(tiny_folder, "llama")
    layout = plan_layout(LoraSpec(rank=2), base.linears())
    start, adapted = base_weight(layout, seed=1), AdaptedModel(base.model, layout)
    recipe = replace(get_recipe("prag-fast", has_meta_init=False), lr=3e-3)
    once = bank.fit(adapted, base.encoder, PASSAGES, recipe, start)
    monkeypatch.setitem(bank.BATCH_TOKENS, "cpu", 100)
    parts = bank.fit(adapted, base.encoder, PASSAGES, recipe, start)
    for mine, theirs in (
        (parts.rows, once.rows),
        (parts.loss_before, once.loss_before),
        (parts.loss_after, once.loss_after),
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_pair_said_twice_counts_twice(tiny_folder: Callable[[str], Path]) -> None:
    """Equal sequences of one passage weigh as much as two sequences do."""
    base = tiny(tiny_folder, "llama")
    layout = plan_layout(LoraSpec(rank=2), base.linears())
    start, adapted = base_weight(layout, seed=1), AdaptedModel(base.model, layout)
    one, other = TokenSequence(tuple(range(3, 30))), TokenSequence((*range(3, 20), *range(90, 99)))
    theta = start.theta[None].clone().requires_grad_()
    data = [[one, other, one]]
    loss, got = bank.gradients(adapted, theta.detach(), data)
    want = row_gradients(adapted, theta, data, create_graph=False)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, passage_losses(adapted, theta.detach(), data))


def test_gradient_step_lowers_the_loss(tiny_folder: Callable[[str], Path]) -> None:
    """Fitting by the gradient recipe reports a lower loss after its step than before."""
    base = tiny(tiny_folder, "llama")
    layout = plan_layout(LoraSpec(), base.linears())
    fitted = bank.fit(
        AdaptedModel(base.model, layout), base.encoder, PASSAGES,
        get_recipe("gradient", has_meta_init=False),
        base_weight(layout, alpha=0.05),
    )  # fmt: skip
    assert (fitted.loss_after < fitted.loss_before).all()


def test_prag_without_augmentation_is_rejected(tiny_folder: Callable[[str], Path]) -> None:
    """Recipe prag refuses a passage that brings no rewrite or Q&A, with a stable code."""
    base = tiny(tiny_folder, "llama")
    with pytest.raises(Rejected) as caught:
        sequences_of(
            TrainingPassage("", "Text."), get_recipe("prag", has_meta_init=False), base.encoder
        )
    assert caught.value.code == "no_augmentation"


def test_prag_makes_five_sequences(tiny_folder: Callable[[str], Path]) -> None:
    """Three pairs give five sequences: two pairs with each of two texts, one pair blind."""
    base = tiny(tiny_folder, "llama")
    found = sequences_of(PASSAGES[0], get_recipe("prag", has_meta_init=False), base.encoder)
    texts = [base.encoder.decode(s.ids) for s in found]
    assert len(texts) == 5
    assert [PASSAGES[0].text in t for t in texts] == [True, False, True, False, False]
    assert [PASSAGES[0].rewrite in t for t in texts] == [False, True, False, True, False]
    assert all(
        a in t for t, a in zip(texts, ["Mara"] * 2 + ["Oste"] * 2 + ["in 1804"], strict=True)
    )
