"""Controls: each mode has the row and the prompt its name says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meta_making import adapted_model, key_value_tasks, warm_start
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import InvalidInput
from adapterdb.training.meta.controls import (
    MODES,
    Answering,
    ControlSettings,
    ModeResult,
    gains,
    other_task,
    random_like,
    run_controls,
)
from adapterdb.training.meta.inner_step import InnerStep, adapt
from adapterdb.training.start import Start, base_weight

TASKS = key_value_tasks(0, 5)
SETTINGS = ControlSettings(inner=InnerStep(), at_once=2, ftsimada_lr=0.2)
Seen = dict[str, list[tuple[Tensor | None, list[int]]]]


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel, Start]:
    """A tiny model and a start for it."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    adapted = adapted_model(base)
    return base, adapted, warm_start(adapted)


def seen(
    made: tuple[BaseModel, AdaptedModel, Start], settings: ControlSettings, *modes: str
) -> tuple[Seen, dict[str, ModeResult], Tensor]:
    """The row and prompt that each mode answers each task with; the results; the ft row."""
    base, adapted, start = made
    ft, found = warm_start(adapted, seed=7).theta, Seen()
    for mode in modes:
        given: list[tuple[Tensor | None, list[int]]] = []

        def answer(
            rows: Tensor | None, prompts: Sequence[Sequence[int]], given: list = given
        ) -> list[str]:
            given += [(None if rows is None else rows[i], list(p)) for i, p in enumerate(prompts)]
            return ["right" for _ in prompts]

        score = Answering(answer, {"f1": lambda text, _: float(text == "right")})
        run_controls(
            adapted, base.encoder, TASKS, [mode], settings,  # type: ignore[list-item]
            start=start, ft=ft, answering=score,
        )  # fmt: skip
        found[mode] = given
    results = run_controls(adapted, base.encoder, TASKS, modes, settings, start=start, ft=ft)  # type: ignore[arg-type]
    return found, results, ft  # type: ignore[return-value]


def test_rows_of_every_mode(made: tuple[BaseModel, AdaptedModel, Start]) -> None:
    """Own context for meta, another one's for shift, the tuned row and its plain step, or none."""
    base, adapted, start = made
    found, results, ft = seen(made, SETTINGS, *MODES)
    plain = Start(ft, torch.full_like(ft, 0.2))
    for i, task in enumerate(TASKS):
        own, other = task.passages[:1], TASKS[(i + 2) % 5].passages[:1]
        want = {
            "meta": adapt(adapted, base.encoder, own, start),
            "shift": adapt(adapted, base.encoder, other, start),
            "ft": ft,
            "ftsimada": adapt(adapted, base.encoder, own, plain),
        }
        want |= {"meta+icl": want["meta"], "ft+icl": ft}
        for mode, row in want.items():
            got = found[mode][i][0]
            assert got is not None
            torch.testing.assert_close(got, row, atol=1e-6, rtol=0)
        assert (want["meta"] - want["shift"]).abs().max() > 1e-4
        assert found["direct"][i][0] is None
        assert found["icl"][i][0] is None
        for mode in MODES:
            shown = own[0][1] in base.encoder.decode(found[mode][i][1])
            assert shown == mode.endswith("icl")
    assert len({round(result.mean("nll"), 6) for result in results.values()}) == len(MODES)


def test_nll_is_the_answer_tokens_mean_loss(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Each task's figure is the model's cross entropy after its own prompt, whatever the batch."""
    base, adapted, _ = made
    _, results, _ = seen(made, SETTINGS, "direct")
    for task, nll in zip(TASKS, results["direct"].nll, strict=True):
        prompt, answer = base.encoder.blind(task.question), base.encoder.answer(task.answer)
        ids = torch.tensor([[*prompt, *answer]])
        logits = adapted.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        want = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        assert nll == pytest.approx(float(want), abs=1e-5)


def test_random_gradients_have_the_norms_of_the_own_ones(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Every A and B of the random row has the norm of the gradient's, in another direction."""
    _, adapted, start = made
    found, _, _ = seen(made, SETTINGS, "meta", "random")
    layout = adapted.layout
    for (own, _), (drawn, _) in zip(found["meta"], found["random"], strict=True):
        assert own is not None
        assert drawn is not None
        old, new = ((start.theta - row) / start.alpha for row in (own, drawn))
        for i in range(len(layout.sites)):
            for part in (layout.a, layout.b):
                torch.testing.assert_close(
                    part(old, i).norm(), part(new, i).norm(), rtol=1e-3, atol=0
                )
        assert torch.cosine_similarity(old, new, dim=0).abs() < 0.3
    zero = torch.zeros(2, layout.size)
    assert not random_like(zero, layout, torch.Generator()).any()


def test_random_init_takes_the_plain_step_from_an_untrained_row(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """FTsimAda's random_init begins at the base_weight, and needs no task-tuned row."""
    base, adapted, _ = made
    settings = replace(SETTINGS, random_init=True)
    found, _, _ = seen(made, settings, "ftsimada")
    plain = base_weight(adapted.layout, alpha=0.2)
    got = found["ftsimada"][0][0]
    assert got is not None
    want = adapt(adapted, base.encoder, TASKS[0].passages[:1], plain)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    run_controls(adapted, base.encoder, TASKS, ["ftsimada"], settings)


def test_mixed_replaces_the_last_passages_by_another_tasks(
    made: tuple[BaseModel, AdaptedModel, Start],
) -> None:
    """Half of two passages: the first is the own one, the second the other task's first."""
    base, adapted, start = made
    settings = replace(SETTINGS, inner=InnerStep(passages=2), mixed=0.5)
    found, _, _ = seen(made, settings, "meta")
    own, other = TASKS[0].passages[0], TASKS[2].passages[0]
    got = found["meta"][0][0]
    assert got is not None
    torch.testing.assert_close(
        got, adapt(adapted, base.encoder, [own, other], start), atol=1e-6, rtol=0
    )


def test_another_task_shares_no_passage() -> None:
    """The one half the list further on, or the next with other passages; none is an error."""
    same = [replace(TASKS[0], id=str(i)) for i in range(3)]
    tasks = [*same, TASKS[1]]
    assert [other_task(tasks, i) for i in range(4)] == [3, 3, 3, 1]
    with pytest.raises(InvalidInput):
        other_task(same, 0)


def test_gains() -> None:
    """Knowledge is own minus shift, mode is shift minus none; less loss is more gain."""
    results = {
        mode: ModeResult((nll, nll), {"f1": (f1, f1)})
        for mode, nll, f1 in (("direct", 5.0, 0.1), ("shift", 4.0, 0.15), ("meta", 2.5, 0.4))
    }
    assert (gains(results, "nll").knowledge, gains(results, "nll").mode) == (1.5, 1.0)  # type: ignore[arg-type]
    f1 = gains(results, "f1")  # type: ignore[arg-type]
    assert (f1.knowledge, f1.mode) == (pytest.approx(0.25), pytest.approx(0.05))


@pytest.mark.parametrize("mode", ["meta", "ft", "ftsimada", "nothing"])
def test_what_a_mode_needs_is_named(made: tuple[BaseModel, AdaptedModel, Start], mode: str) -> None:
    """A mode without its start, row or meaning is refused before anything is computed."""
    base, adapted, _ = made
    with pytest.raises(InvalidInput, match=mode):
        run_controls(adapted, base.encoder, TASKS, [mode], SETTINGS)  # type: ignore[list-item]
