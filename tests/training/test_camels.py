"""Meta-training: what is carried, what is kept, that it can go on, and that it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from camels_making import PASSAGES, Tiny, tiny

from adapterdb.errors import InvalidInput, Mismatch
from adapterdb.training.camels.objective import CamelsSettings, lesson_of, passages_of
from adapterdb.training.camels.run import CamelsResult, meta_train, train_weighter, validation
from adapterdb.training.camels.space import Rows, State
from adapterdb.training.objective import TokenSequence, TrainingPassage
from adapterdb.training.presets import load_preset, preset_names
from adapterdb.training.schedule import Progress
from adapterdb.training.tasks import Task
from adapterdb.training.weights.weighter import Weighter, WeighterSpec, weighter_of

LOCALITY = ["The sea is wide.", "A hill."]
SETTINGS = CamelsSettings(
    update_batch_size=2, reset_base_freq=4, inner_lr=0.5, lr=1e-2, accumulation=2,
    validate_every=2, max_steps=4, weighter=WeighterSpec(layers=1, trained_layers=1),
)  # fmt: skip
MORE = [replace(p, title=f"{p.title} again") for p in PASSAGES]


def trained(t: Tiny, settings: CamelsSettings, **given: Any) -> CamelsResult:
    """A run over the four passages, with two others to choose by."""
    weighter = weighter_of(t.base.model.float(), t.base.encoder, settings.weighter)
    return meta_train(
        t.rows, weighter, t.base.encoder, PASSAGES + MORE[2:], MORE[:2], LOCALITY, settings,
        **given,
    )  # fmt: skip


class Watched(Rows):
    """Rows that note which rows a loss was taken at, and when they begin anew."""

    seen: list[Any]

    def begin(self) -> State:
        """Noted as ``new``."""
        self.seen.append("new")
        return super().begin()

    def loss(
        self,
        state: State,
        sequences: Sequence[TokenSequence],
        weights: Any = None,
        vocabulary: Any = None,
    ) -> torch.Tensor:
        """Noted by the row."""
        self.seen.append(state[0].detach().clone())
        return super().loss(state, sequences, weights, vocabulary)


@pytest.mark.parametrize("per_passage", [False, True])
def test_carrying_and_reset(tiny_folder: Callable[[str], Path], per_passage: bool) -> None:
    """Rows are carried for reset_base_freq documents and then begin anew; per passage never."""
    t = tiny(tiny_folder, double=False)
    space = Watched(t.rows.adapted, t.start)
    space.seen = []
    weighter = weighter_of(t.base.model, t.base.encoder, SETTINGS.weighter)
    lessons = [lesson_of(p, t.base.encoder) for p in PASSAGES + MORE[2:]]
    settings = replace(SETTINGS, c_kl=0.0, per_passage=per_passage)
    validation(space, weighter, lessons, [], settings)
    theta = t.start.theta
    firsts = []  # rows each batch of two begins at, by what was noted
    losses = [x for x in space.seen if not isinstance(x, str)]
    per_batch = 4 if per_passage else 3  # two steps, and the questions of each or of both
    assert len(losses) == 3 * per_batch
    for batch in range(3):
        firsts.append(torch.equal(losses[batch * per_batch], theta))
    assert firsts == ([True] * 3 if per_passage else [True, False, True])
    if not per_passage:  # the second batch begins where the first one's questions were asked
        torch.testing.assert_close(losses[3], losses[2])


def test_training_carries_and_resets(tiny_folder: Callable[[str], Path]) -> None:
    """In training, too: the 1st and 3rd batch of two begin at theta, the 2nd and 4th do not."""
    t = tiny(tiny_folder, double=False)
    space = Watched(t.rows.adapted, t.start)
    space.seen = []
    weighter = weighter_of(t.base.model, t.base.encoder, SETTINGS.weighter)
    settings = replace(SETTINGS, c_kl=0.0, validate_every=4)
    ends: list[int] = []
    meta_train(
        space, weighter, t.base.encoder, PASSAGES + MORE[2:], MORE[:2], [], settings,
        on_progress=lambda _: ends.append(len(space.seen)),
    )  # fmt: skip
    validated = 2 + 3  # a validation of one batch begins twice over and takes three losses
    first = next(x for x in space.seen[1 + validated : ends[0]] if not isinstance(x, str))
    others = [next(x for x in space.seen[a:b] if not isinstance(x, str)) for a, b in pairwise(ends)]
    theta = t.start.theta
    assert [torch.equal(row, theta) for row in (first, *others)] == [True, False, True, False]


def test_checkpoint_goes_on_to_the_same_end(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A run cut in two ends bit for bit like an uncut one, plateau and carried rows included."""
    t = tiny(tiny_folder, double=False)
    settings = replace(SETTINGS, max_steps=8, plateau=1, reset_base_freq=8)
    whole = trained(t, settings)
    file = tmp_path / "run.safetensors"
    trained(t, replace(settings, max_steps=2), checkpoint=file)
    cut = trained(t, settings, checkpoint=file)
    plain = [{k: v for k, v in row.items() if k != "minutes"} for row in whole.curve]
    assert [{k: v for k, v in row.items() if k != "minutes"} for row in cut.curve] == plain
    assert [row["step"] for row in plain] == [0, 2, 4, 6, 8]
    for name, value in whole.weighter.state_dict().items():
        assert torch.equal(value, cut.weighter.state_dict()[name]), name
    with pytest.raises(Mismatch):
        trained(t, replace(settings, inner_lr=0.1), checkpoint=file)


def test_best_weighter_is_kept(tiny_folder: Callable[[str], Path]) -> None:
    """After a run that only got worse the weighter is the untrained one again."""
    t = tiny(tiny_folder, double=False)
    settings = replace(SETTINGS, lr=30.0, c_norm=10.0)
    made = trained(t, settings)
    totals = [row["total"] for row in made.curve]
    assert min(totals) == totals[0] < totals[-1]
    assert made.facts["best"] == made.curve[0]
    (weights,) = made.weighter.weigh([("", "Snow fell.")])
    assert weights == pytest.approx([0.23104906] * len(weights))


def test_base_is_left_as_it_was(tiny_folder: Callable[[str], Path]) -> None:
    """Meta-training moves the weighter alone: not the base model, the start, or frozen layers."""
    t = tiny(tiny_folder, double=False)
    before = [p.clone() for p in t.base.model.parameters()]
    theta = t.start.theta.clone()
    frozen = weighter_of(t.base.model, t.base.encoder, WeighterSpec(layers=2, trained_layers=1))
    frozen_before = {n: p.clone() for n, p in frozen.named_parameters() if not p.requires_grad}
    meta_train(
        t.rows, frozen, t.base.encoder, PASSAGES, MORE[:2], LOCALITY,
        replace(SETTINGS, weighter=frozen.spec),
    )  # fmt: skip
    for was, now in zip(before, t.base.model.parameters(), strict=True):
        assert torch.equal(was, now)
        assert now.grad is None
    assert torch.equal(theta, t.start.theta)
    now_named = dict(frozen.named_parameters())
    assert frozen_before
    assert all(torch.equal(p, now_named[n]) for n, p in frozen_before.items())


@pytest.mark.parametrize("space", ["rows", "weights"])
def test_train_weighter_from_tasks(tiny_folder: Callable[[str], Path], space: str) -> None:
    """From questions and passages, in either space, with progress; what it learned is told."""
    t = tiny(tiny_folder, double=False)
    tasks = [
        Task(f"{i}", question, (answer,), ((p.title, p.text),), (0,))
        for i, p in enumerate(PASSAGES * 1 + MORE)
        for question, answer in p.qa
    ]
    assert [p.qa for p in passages_of(tasks)][:2] == [PASSAGES[0].qa, PASSAGES[1].qa]
    seen: list[Progress] = []
    made = train_weighter(
        t.rows.adapted, t.base, tasks[:8], tasks[8:], replace(SETTINGS, space=space),  # type: ignore[arg-type]
        start=t.start, locality=LOCALITY, on_progress=seen.append,
    )  # fmt: skip
    assert [p.step for p in seen] == [1, 2, 3, 4]
    assert seen[1].held_out == made.curve[1]
    assert made.facts["passages"] == len(passages_of(tasks[:8]))
    assert made.facts["settings"]["space"] == space
    assert isinstance(Weighter.from_tensors(made.weighter.to_tensors()), Weighter)


def test_what_cant_be_trained(tiny_folder: Callable[[str], Path]) -> None:
    """Leaking, empty or questionless data and settings that don't fit are refused."""
    t = tiny(tiny_folder, double=False)
    weighter = weighter_of(t.base.model, t.base.encoder, SETTINGS.weighter)
    for train, valid, locality, match in (
        (PASSAGES, PASSAGES[:1], LOCALITY, "both trained on"),
        (PASSAGES, [], LOCALITY, "both are needed"),
        (PASSAGES, MORE, [], "locality"),
        ([TrainingPassage("", "No question.")], MORE, LOCALITY, "no question"),
    ):
        with pytest.raises(InvalidInput, match=match):
            meta_train(t.rows, weighter, t.base.encoder, train, valid, locality, SETTINGS)
    with pytest.raises(InvalidInput, match="multiple"):
        replace(SETTINGS, reset_base_freq=5)
    other = tiny(tiny_folder, "llama", double=False)
    foreign = weighter_of(other.base.model, other.base.encoder, SETTINGS.weighter)
    foreign.encoder = replace_template(foreign)
    with pytest.raises(InvalidInput, match="tokenizer"):
        meta_train(t.rows, foreign, t.base.encoder, PASSAGES, MORE, LOCALITY, SETTINGS)


def replace_template(weighter: Weighter) -> Any:
    """The weighter's encoder with another document template."""
    from adapterdb.prompts import PromptEncoder

    encoder = weighter.encoder
    changed = replace(encoder.prompts, document="Text: {passages}")
    return PromptEncoder(changed, encoder._tokenizer, encoder.max_length)


def test_presets_are_the_published_settings() -> None:
    """``camels-meta`` has CaMeLS' own numbers; every shipped preset of the kind can be read."""
    published = load_preset(CamelsSettings, "camels", "camels-meta")
    assert published.space == "weights"
    assert (published.update_batch_size, published.reset_base_freq) == (6, 24)
    assert (published.inner_lr, published.lr, published.c_kl) == (5e-4, 1e-5, 0.1)
    assert published.weighter == WeighterSpec()
    assert {"camels-meta", "camels-mini", "camels-adapt"} <= set(preset_names("camels"))
    assert load_preset(CamelsSettings, "camels", "camels-mini").per_passage


def noisy(rng: torch.Generator, n: int) -> list[TrainingPassage]:
    """Passages of eleven small letters and a capital, which answers the question."""
    made = []
    for _ in range(n):
        drawn = ["abcdefgh"[int(i)] for i in torch.randint(8, (11,), generator=rng)]
        answer = "STUVWXYZ"[int(torch.randint(8, (1,), generator=rng))]
        drawn.insert(int(torch.randint(1, 12, (1,), generator=rng)), answer)
        made.append(TrainingPassage("", "".join(drawn), qa=(("Which?", answer),)))
    return made


def test_learned_weights_beat_uniform(tiny_folder: Callable[[str], Path]) -> None:
    """Where the answer is one token among noise, learned weights answer better.

    Held-out passages, against uniform weights at the best of many steps, chosen on those passages.
    """
    t = tiny(tiny_folder, double=False)
    # logits that tell words apart, and activations that one context shares with another
    t.base.model.get_input_embeddings().weight.data.mul_(20)
    t.base.model.get_submodule("bert.encoder.layer.1.intermediate.dense").bias.data.fill_(1.0)
    rng = torch.Generator().manual_seed(0)
    train, valid, test = noisy(rng, 60), noisy(rng, 6), noisy(rng, 18)
    settings = CamelsSettings(
        per_passage=True, update_batch_size=6, reset_base_freq=6, inner_lr=1.0, c_kl=0.0, lr=3e-3,
        accumulation=1, validate_every=10, max_steps=40, clip=1.0, weighter=WeighterSpec(layers=1),
    )  # fmt: skip
    weighter = weighter_of(t.base.model, t.base.encoder, settings.weighter)
    made = meta_train(t.rows, weighter, t.base.encoder, train, valid, [], settings)
    lessons = [lesson_of(p, t.base.encoder) for p in test]
    learned = validation(t.rows, made.weighter, lessons, [], settings)["qa"]
    swept = {
        lr: validation(
            t.rows, lambda ids, mask: mask.float(), lessons, [], replace(settings, inner_lr=lr)
        )["qa"]
        for lr in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    }
    assert min(swept.values()) < swept[0.0]  # a uniform step helps, too
    assert learned < min(swept.values()) - 0.2
