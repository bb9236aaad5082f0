"""One delta on many sequences, and a base model tuned whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meta_making import adapted_model, key_value_tasks, sharp_base, weights_of

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import Exists, InvalidInput
from adapterdb.training.base_tuning import tune_base
from adapterdb.training.finetune import (
    FinetuneSettings,
    answer_sequences,
    finetune,
    pair_sequences,
    passage_sequences,
    sequences_to_learn,
)
from adapterdb.training.objective import TokenSequence
from adapterdb.training.schedule import Schedule
from adapterdb.training.start import base_weight

TASKS, ASIDE = key_value_tasks(0, 40), key_value_tasks(40, 8)
FLAT = Schedule("constant", warm_up=0.0)
QUICK = FinetuneSettings("tiny", lr=1e-2, batch=8, epochs=6, schedule=FLAT)


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel]:
    """A tiny model, hooked."""
    base = sharp_base(tiny_folder("llama"))
    return base, adapted_model(base)


def test_task_tuning_lowers_the_set_aside_loss(made: tuple[BaseModel, AdaptedModel]) -> None:
    """The row of the best evaluation comes back; theta and the base are left alone."""
    base, adapted = made
    theta, before = base_weight(adapted.layout).theta, weights_of(base.model)
    kept = theta.clone()
    learned, aside = (answer_sequences(t, base.encoder) for t in (TASKS, ASIDE))
    found = finetune(adapted, learned, QUICK, theta, held_out=aside)
    losses = [entry["held_out"] for entry in found.curve]
    assert len(losses) == QUICK.epochs
    assert min(losses) < losses[0] - 0.2
    assert found.best_step == found.curve[losses.index(min(losses))]["step"]
    assert torch.equal(theta, kept)
    assert all(torch.equal(base.model.state_dict()[n], t) for n, t in before.items())


def test_steps_are_adamw_on_the_mean_over_tokens(made: tuple[BaseModel, AdaptedModel]) -> None:
    """One batch in parts of three, twice: torch's AdamW on the loss over all labelled tokens."""
    base, adapted = made
    whole = answer_sequences(TASKS[:8], base.encoder, mask="all")
    learned = [TokenSequence(s.ids[: 14 + i], s.loss_from) for i, s in enumerate(whole)]
    theta = base_weight(adapted.layout).theta
    settings = replace(QUICK, max_steps=2, at_once=3, betas=(0.5, 0.6), weight_decay=0.3, clip=0.1)
    got = finetune(adapted, learned, settings, theta).row
    row = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.AdamW([row], lr=1e-2, betas=(0.5, 0.6), weight_decay=0.3)
    for _ in range(2):
        total, count = torch.zeros(()), 0
        for s in learned:
            ids = torch.tensor([s.ids])
            with adapted.using_rows(row[None]) as model:
                logits = model(input_ids=ids).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            count += len(s.ids) - 1
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_([row], 0.1)
        optimizer.step()
    torch.testing.assert_close(got, row.detach(), atol=1e-4, rtol=0)


def test_patience_ends_the_run(made: tuple[BaseModel, AdaptedModel]) -> None:
    """With a learning rate of zero nothing gets better: two more evaluations, and out."""
    base, adapted = made
    learned, aside = (answer_sequences(t, base.encoder) for t in (TASKS, ASIDE))
    settings = replace(QUICK, lr=0.0, epochs=50, patience=2)
    found = finetune(adapted, learned, settings, base_weight(adapted.layout).theta, held_out=aside)
    assert len(found.curve) == 3
    assert found.best_step == found.curve[0]["step"]


def test_nothing_is_validated_on_what_is_trained(made: tuple[BaseModel, AdaptedModel]) -> None:
    """A sequence in both sets is refused, and so is nothing to learn."""
    base, adapted = made
    learned, theta = answer_sequences(TASKS, base.encoder), base_weight(adapted.layout).theta
    with pytest.raises(InvalidInput, match="1 of 1 set-aside"):
        finetune(adapted, learned, QUICK, theta, held_out=learned[3:4])
    with pytest.raises(InvalidInput, match="no sequence"):
        finetune(adapted, learned, replace(QUICK, max_tokens=1), theta)
    with pytest.raises(InvalidInput, match="betas"):
        replace(QUICK, betas=(0.9,))


def test_sequences(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Blind and visible questions, pairs, and each passage once."""
    base = made[0]
    text = TASKS[0].passages[0][1]
    blind, shown, whole = (
        answer_sequences(TASKS[:1], base.encoder, **options)[0]  # type: ignore[arg-type]
        for options in ({}, {"visible": True}, {"mask": "all"})
    )
    assert text in base.encoder.decode(shown.ids)
    assert text not in base.encoder.decode(blind.ids)
    assert blind.ids == whole.ids
    assert whole.loss_from == 0
    answer = base.encoder.decode(blind.ids[blind.loss_from :]).strip()
    assert answer == TASKS[0].answer
    pair = (TASKS[0].question, TASKS[0].answer)
    assert pair_sequences([pair], base.encoder) == [blind]
    twice = [p for task in (TASKS[0], TASKS[0]) for p in task.passages]
    found = passage_sequences(twice, base.encoder)
    assert [base.encoder.decode(s.ids) for s in found] == [p[1] for p in TASKS[0].passages]
    learn = replace(QUICK, learn="passages")
    assert sequences_to_learn([TASKS[0]], learn, base.encoder) == found


def test_tuned_base_is_a_folder_of_its_own(
    made: tuple[BaseModel, AdaptedModel], tmp_path: Path
) -> None:
    """It loads as a base model, has a lower loss, and the one it came from is as it was."""
    base, _ = made
    before = weights_of(base.model)
    # other answers to some of the same questions: their form can be learned, and then too much
    other = [replace(task, answers=("g",)) for task in TASKS[:8]]
    learned, aside = (answer_sequences(t, base.encoder) for t in (TASKS, other))
    folder = tmp_path / "tuned"
    settings = replace(QUICK, lr=1e-2, epochs=12, evaluate_every=1, weight_decay=0.0)
    curve = tune_base(base, learned, settings, folder, held_out=aside)
    tuned = load_base_model(str(folder), dtype="float32")
    losses = []
    for model in (base.model, tuned.model):
        each = []
        for s in aside:
            ids = torch.tensor([s.ids])
            logits = model(input_ids=ids).logits[0, s.loss_from - 1 : -1]
            each.append(torch.nn.functional.cross_entropy(logits, ids[0, s.loss_from :]))
        losses.append(float(torch.stack(each).mean()))
    assert losses[1] < losses[0] - 0.2
    assert curve[-1]["held_out"] > losses[1] + 0.01  # the last is not the best
    # every answer has as many tokens, so the mean over tokens is the mean over questions
    assert losses[1] == pytest.approx(min(entry["held_out"] for entry in curve), abs=1e-4)
    assert all(torch.equal(base.model.state_dict()[n], t) for n, t in before.items())
    assert not any(p.requires_grad for p in base.model.parameters())
    assert tuned.encoder.prompts == base.encoder.prompts
    assert tuned.fingerprint != base.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    with pytest.raises(Exists):
        tune_base(base, learned, settings, folder)
