"""Learning a stream: order, weights, the sweep on validation alone, light tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from camels_making import PASSAGES, tiny

from adapterdb.errors import InvalidInput
from adapterdb.training.camels.objective import lesson_of
from adapterdb.training.camels.online import (
    AdaptSettings,
    LightData,
    Method,
    adapt_stream,
    answer_losses,
    compare,
    light_tuned,
)
from adapterdb.training.camels.space import Space, Whole
from adapterdb.training.objective import TokenSequence, TrainingPassage
from adapterdb.training.presets import load_preset
from adapterdb.training.weights.weighting import Salient

SETTINGS = AdaptSettings(lrs=(1e-2, 0.0), light_lr=1e-2, light_check=2)
VALID = [replace(p, title=f"{p.title} then") for p in PASSAGES]


@pytest.mark.parametrize("where", ["rows", "weights"])
def test_stream_is_adam_in_order(tiny_folder: Callable[[str], Path], where: str) -> None:
    """A stream is one Adam step on each weighted document; another order ends elsewhere."""
    t = tiny(tiny_folder)
    space: Space = t.rows if where == "rows" else Whole(t.base.model)
    documents = [lesson_of(p, t.base.encoder).document for p in PASSAGES]
    documents[1] = replace(
        documents[1], weights=tuple(0.1 * i for i in range(len(documents[1].ids)))
    )
    got = adapt_stream(space, documents, 1e-2, SETTINGS)
    plain = [tensor.clone().requires_grad_() for tensor in space.begin()]
    adam = torch.optim.Adam(plain, lr=1e-2)
    for document in documents:
        weights = None
        if document.weights is not None:
            weights = torch.tensor(document.weights[1:])
        adam.zero_grad()
        space.loss(tuple(plain), [document], weights).backward()
        adam.step()
    for a, b in zip(got, plain, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-6, atol=1e-9)
        assert not a.requires_grad
    back = adapt_stream(space, documents[::-1], 1e-2, SETTINGS)
    assert max(float((a - b).abs().max()) for a, b in zip(got, back, strict=True)) > 1e-4
    assert all(torch.equal(a, b) for a, b in zip(space.begin(), t_begin(space), strict=True))


def t_begin(space: Space) -> Any:
    """What the space began from, read once more: adapting must not have moved it."""
    if isinstance(space, Whole):
        return tuple(p.detach() for p in space.model.parameters())
    return space.begin()


def test_clip_bounds_a_step(tiny_folder: Callable[[str], Path]) -> None:
    """Gradients longer than ``clip`` are cut to it, so Adam's second moment stays small."""
    t = tiny(tiny_folder)
    documents = [lesson_of(p, t.base.encoder).document for p in PASSAGES]
    open_ended = adapt_stream(t.rows, documents, 1e-2, SETTINGS)
    tight = adapt_stream(t.rows, documents, 1e-2, replace(SETTINGS, clip=1e-9))
    assert float((open_ended[0] - tight[0]).abs().max()) > 1e-4


def test_sweep_picks_by_validation_alone(tiny_folder: Callable[[str], Path]) -> None:
    """The rate with the lowest validation loss is taken, though the other is better on the test."""
    t = tiny(tiny_folder)
    # on the validation stream learning helps; on the test stream the answers are turned around
    wrong = [
        TrainingPassage(p.title, p.text, qa=tuple((q, "zzqx") for q, _ in p.qa)) for p in PASSAGES
    ]
    settings = replace(SETTINGS, lrs=(3e-2, 0.0))
    seen: list[Any] = []

    def score(state: Any) -> dict[str, float]:
        seen.append(state)
        return {"moved": float((state[0] - t.rows.begin()[0]).abs().max())}

    (found,) = compare(
        t.rows, t.base.encoder, [Method("uniform")], VALID, wrong, settings, score=score
    )
    assert set(found.validation) == {3e-2, 0.0}
    assert found.lr == min(found.validation, key=lambda lr: found.validation[lr])
    assert found.lr == 3e-2
    still = [q for p in wrong for q in lesson_of(p, t.base.encoder).questions]
    untouched = answer_losses(t.rows, t.rows.begin(), still)
    assert sum(found.losses) > sum(untouched)  # 0.0 would have been better there
    assert len(found.losses) == len(still)
    assert len(seen) == 1
    assert found.scores["moved"] > 0
    (own,) = compare(t.rows, t.base.encoder, [Method("still", lrs=(0.0,))], VALID, wrong, settings)
    assert own.losses == pytest.approx(untouched)


def test_weights_reach_the_stream(tiny_folder: Callable[[str], Path]) -> None:
    """A weigher changes what is learned; without one every token counts alike."""
    t = tiny(tiny_folder)
    methods = [Method("uniform"), Method("salient", Salient(t.base.encoder))]
    uniform, salient = compare(t.rows, t.base.encoder, methods, VALID, PASSAGES, SETTINGS)
    assert (uniform.method, salient.method) == ("uniform", "salient")
    assert uniform.losses != pytest.approx(salient.losses, abs=1e-7)


def light_data(encoder: Any) -> LightData:
    """Questions of other passages, to train on and to stop by."""
    sequences = [q for p in PASSAGES for q in lesson_of(p, encoder).questions]
    return LightData(sequences[:3], sequences[3:])


@pytest.mark.parametrize("light", ["interleaved", "after"])
def test_light_tuning_learns_questions(tiny_folder: Callable[[str], Path], light: str) -> None:
    """With light tuning the questions learned from get likelier; without its data it is refused."""
    t = tiny(tiny_folder)
    data = light_data(t.base.encoder)
    settings = replace(SETTINGS, lrs=(1e-3,))
    losses = {}
    for kind in ("none", light):
        states: list[Any] = []

        def keep(state: Any, kept: list[Any] = states) -> dict[str, float]:
            kept.append(state)
            return {}

        method = Method(kind, light=kind)  # type: ignore[arg-type]
        compare(
            t.rows, t.base.encoder, [method], VALID[:2], VALID[2:], settings, light=data, score=keep
        )
        losses[kind] = sum(answer_losses(t.rows, states[0], data.train))
    assert losses[light] < losses["none"]
    with pytest.raises(InvalidInput, match="light"):
        compare(t.rows, t.base.encoder, [Method("x", light=light)], VALID[:2], VALID[2:], SETTINGS)  # type: ignore[arg-type]


def test_light_tuning_stops_and_keeps_its_best(tiny_folder: Callable[[str], Path]) -> None:
    """Patience ends it, and by ``valid`` its state is never worse than the one before."""
    t = tiny(tiny_folder)
    data = light_data(t.base.encoder)
    contrary = LightData(
        data.train,
        [TokenSequence((*s.ids[: s.loss_from], 250, 251), s.loss_from) for s in data.train],
    )
    state = t.rows.begin()
    settings = replace(SETTINGS, light_lr=0.3, light_patience=1, light_check=1)
    tuned = light_tuned(t.rows, state, contrary, settings)
    before = sum(answer_losses(t.rows, state, contrary.valid))
    assert sum(answer_losses(t.rows, tuned, contrary.valid)) <= before


def test_streams_may_not_share_passages(tiny_folder: Callable[[str], Path]) -> None:
    """A passage in both streams, or an empty one, is refused; so is a sweep over nothing."""
    t = tiny(tiny_folder)
    for valid, test in ((PASSAGES, PASSAGES[:1]), ([], PASSAGES), (PASSAGES, [])):
        with pytest.raises(InvalidInput, match="both streams"):
            compare(t.rows, t.base.encoder, [Method("uniform")], valid, test, SETTINGS)
    with pytest.raises(InvalidInput, match="lrs"):
        AdaptSettings(lrs=())


def test_preset_is_the_published_one() -> None:
    """``camels-adapt`` sweeps CaMeLS' four rates with its clip over all weights."""
    preset = load_preset(AdaptSettings, "camels", "camels-adapt")
    assert preset.lrs == (1e-4, 2.5e-5, 6.25e-6, 1.56e-6)
    assert (preset.clip, preset.epochs, preset.space) == (750.0, 1, "weights")
    assert (preset.light_lr, preset.light_patience) == (2.5e-5, 3)
