"""Meta-training runs: they learn, keep the best, resume exactly, and leave the base alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meta_making import adapted_model, key_value_tasks, sharp_base, warm_start, weights_of
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel
from adapterdb.errors import Corrupt, InvalidInput, Mismatch
from adapterdb.training import differentiable
from adapterdb.training.finetune import FinetuneSettings
from adapterdb.training.meta import run
from adapterdb.training.meta.controls import Answering, ControlSettings, run_controls
from adapterdb.training.meta.objective import MetaInitSettings
from adapterdb.training.meta.run import fresh_start, train_meta_init
from adapterdb.training.presets import load_preset, preset_names
from adapterdb.training.schedule import Progress

TASKS, ASIDE = key_value_tasks(0, 40), key_value_tasks(40, 12)
QUICK = MetaInitSettings(
    "tiny", init_alpha=1.0, alpha_form="log", lr=1e-2, b_std=0.1, tasks=8, tasks_at_once=4,
    max_steps=6, evaluate_every=2, clip=1.0,
)  # fmt: skip


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel]:
    """A tiny model, hooked."""
    base = sharp_base(tiny_folder("llama"))
    return base, adapted_model(base)


def test_learns_to_be_adapted(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Set-aside loss falls well below that of a shifted passage; the base is as it was."""
    base, adapted = made
    before = weights_of(base.model)
    settings = replace(QUICK, max_steps=60, tasks=16, tasks_at_once=16, evaluate_every=20)
    result = train_meta_init(adapted, base.encoder, TASKS, ASIDE, settings)
    nlls = [entry["nll"] for entry in result.curve]
    assert [entry["step"] for entry in result.curve] == [0, 20, 40, 60]
    assert min(nlls) < nlls[0] - 1.0
    assert result.best_step == 20 * nlls.index(min(nlls))
    found = run_controls(
        adapted, base.encoder, ASIDE, ["meta", "shift"], ControlSettings(), start=result.start
    )
    assert found["meta"].mean("nll") == pytest.approx(min(nlls), abs=1e-5)
    assert found["meta"].mean("nll") < found["shift"].mean("nll") - 0.1
    after = base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


@pytest.mark.parametrize("mode", ["tie", "full", "same", "fix"])
def test_alpha_modes_train(made: tuple[BaseModel, AdaptedModel], mode: str) -> None:
    """Every mode runs; tie ends with one number a tensor, same with one, fix where it began."""
    base, adapted = made
    settings = replace(QUICK, alpha_mode=mode, alpha_form="plain")  # type: ignore[arg-type]
    alpha = train_meta_init(adapted, base.encoder, TASKS, (), settings).start.alpha
    layout = adapted.layout
    each = [part(alpha, i).unique().numel() for i in range(len(layout.sites))
            for part in (layout.a, layout.b)]  # fmt: skip
    assert each == [1] * len(each) if mode != "full" else min(each) > 1
    if mode == "fix":
        assert torch.equal(alpha, torch.full_like(alpha, 1.0))
    else:
        assert alpha.unique().numel() == {"tie": len(each), "same": 1}.get(mode, alpha.numel()) or (
            mode == "full"
        )
        assert (alpha - 1.0).abs().min() > 0


class Stop(Exception):
    """Ends a run from outside."""


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_progress(at: Progress) -> None:
        if at.step == step:
            raise Stop

    return on_progress


@pytest.mark.parametrize("outer", ["answer_ce", "ntp"])
def test_resumed_run_is_bit_equal(
    made: tuple[BaseModel, AdaptedModel], tmp_path: Path, outer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stopped after step 5 and resumed from the save at 4: the same start, curve and best step."""
    base, adapted = made
    monkeypatch.setattr(run, "FREQUENT", 10)
    monkeypatch.setattr(run, "OTHERS", 20)
    monkeypatch.setattr(differentiable, "OTHERS", 20)
    settings = replace(QUICK, outer=outer, sampled_vocabulary=True)  # type: ignore[arg-type]
    whole = train_meta_init(adapted, base.encoder, TASKS, ASIDE, settings)
    file = tmp_path / "run.safetensors"
    arguments = (adapted, base.encoder, TASKS, ASIDE, settings)
    with pytest.raises(Stop):
        train_meta_init(*arguments, on_progress=stop_at(5), checkpoint=file)
    steps: list[int] = []
    torch.manual_seed(5)  # what else was drawn in between changes nothing
    again = train_meta_init(
        *arguments, on_progress=lambda at: steps.append(at.step), checkpoint=file
    )
    assert steps == [5, 6]
    assert torch.equal(again.start.theta, whole.start.theta)
    assert torch.equal(again.start.alpha, whole.start.alpha)
    assert again.best_step == whole.best_step
    for mine, other in zip(again.curve, whole.curve, strict=True):
        assert {**mine, "minutes": 0} == {**other, "minutes": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_checkpoint_of_another_run_is_refused(
    made: tuple[BaseModel, AdaptedModel], tmp_path: Path
) -> None:
    """Other settings or tasks are named; a damaged file is not taken for a beginning."""
    base, adapted = made
    file = tmp_path / "run.safetensors"
    train_meta_init(adapted, base.encoder, TASKS, (), QUICK, checkpoint=file)
    with pytest.raises(Mismatch, match="other settings"):
        train_meta_init(adapted, base.encoder, TASKS, (), replace(QUICK, lr=1e-3), checkpoint=file)
    with pytest.raises(Mismatch, match="other tasks"):
        train_meta_init(adapted, base.encoder, TASKS[1:], (), QUICK, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Corrupt):
        train_meta_init(adapted, base.encoder, TASKS, (), QUICK, checkpoint=file)


def test_best_by_f1_is_kept(made: tuple[BaseModel, AdaptedModel]) -> None:
    """With answers right only at the evaluation of step 4, its theta is the result."""
    base, adapted = made
    scores = iter([0.1, 0.2, 0.9, 0.3])
    rows: list[Tensor] = []

    def answer(given: Tensor | None, prompts: Sequence[Sequence[int]]) -> list[str]:
        assert given is not None
        rows.append(given[0])
        return [str(next(scores))] * len(prompts)

    settings = replace(QUICK, keep_best_by="f1")
    scored = Answering(answer, {"f1": lambda text, _: float(text)})
    result = train_meta_init(adapted, base.encoder, TASKS, ASIDE[:8], settings, answering=scored)
    assert result.best_step == 4
    assert [entry["f1"] for entry in result.curve] == pytest.approx([0.1, 0.2, 0.9, 0.3])
    found = run_controls(
        adapted, base.encoder, ASIDE[:8], ["meta"], ControlSettings(), start=result.start
    )
    assert found["meta"].mean("nll") == pytest.approx(result.curve[2]["nll"], abs=1e-6)
    assert result.curve[2]["nll"] != pytest.approx(result.curve[3]["nll"], abs=1e-6)
    with pytest.raises(InvalidInput, match="keep_best_by"):
        train_meta_init(adapted, base.encoder, TASKS, ASIDE, settings)


def test_gradients_are_clipped_together(
    made: tuple[BaseModel, AdaptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What AdamW sees has at most the norm of the clip, over theta and alpha."""
    base, adapted = made
    norms = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: object) -> object:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in grads if g is not None]).norm())
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train_meta_init(adapted, base.encoder, TASKS, (), replace(QUICK, clip=1e9, max_steps=2))
    assert min(norms) > 0.05
    norms.clear()
    train_meta_init(adapted, base.encoder, TASKS, (), replace(QUICK, clip=0.01, max_steps=2))
    assert [float(n) for n in norms] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_micro_batches_change_nothing(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Eight tasks at once, or three: the same step, to rounding."""
    base, adapted = made
    starts = [
        train_meta_init(
            adapted, base.encoder, TASKS, (),
            replace(QUICK, max_steps=1, alpha_form="plain", tasks_at_once=n),
            start=warm_start(adapted),
        ).start
        for n in (8, 3)
    ]  # fmt: skip
    moved = starts[0].theta - warm_start(adapted).theta
    assert moved.abs().max() > 1e-5
    # AdamW's first step is the gradient's sign: only numbers of gradient 0 may differ
    same = (starts[0].theta - starts[1].theta).abs() < 1e-5
    assert same.float().mean() > 0.99


def test_outer_losses_train_differently(made: tuple[BaseModel, AdaptedModel]) -> None:
    """The KL and the ablation run, with distractors and visible passages too; all thetas differ."""
    base, adapted = made
    variants = [
        QUICK,
        replace(QUICK, outer="kl_to_prompted"),
        replace(QUICK, outer="ntp"),
        replace(QUICK, visible=True),
        replace(QUICK, distractors=2),
        replace(QUICK, second_order=False),
        replace(QUICK, inner=replace(QUICK.inner, passages=2)),
        replace(QUICK, inner=replace(QUICK.inner, passages=2, joined=True)),
        replace(QUICK, inner=replace(QUICK.inner, steps=2)),
    ]
    thetas = [
        train_meta_init(adapted, base.encoder, TASKS, (), settings).start.theta
        for settings in variants
    ]
    for i, theta in enumerate(thetas):
        assert bool(theta.isfinite().all())
        assert all((theta - other).abs().max() > 1e-4 for other in thetas[:i])


def test_evaluations_look_at_as_many_as_wanted(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Three of the twelve set-aside tasks, evenly spaced."""
    base, adapted = made
    settings = replace(QUICK, evaluate_on=3)
    result = train_meta_init(adapted, base.encoder, TASKS, ASIDE, settings)
    best = [entry["nll"] for entry in result.curve if entry["step"] == result.best_step]
    some = [ASIDE[0], ASIDE[4], ASIDE[8]]
    found = run_controls(
        adapted, base.encoder, some, ["meta"], ControlSettings(), start=result.start
    )
    assert best == [pytest.approx(found["meta"].mean("nll"), abs=1e-6)]


def test_tasks_in_both_sets_are_refused(made: tuple[BaseModel, AdaptedModel]) -> None:
    """No set-aside task is a training task."""
    base, adapted = made
    with pytest.raises(InvalidInput, match="also trained on"):
        train_meta_init(adapted, base.encoder, TASKS, TASKS[:1], QUICK)


def test_divergence_ends_the_run(made: tuple[BaseModel, AdaptedModel]) -> None:
    """An absurd step size is an error with a code, not a start full of NaN."""
    base, adapted = made
    with pytest.raises(InvalidInput) as caught:
        train_meta_init(
            adapted, base.encoder, TASKS, (),
            replace(QUICK, lr=1e6, alpha_form="plain", max_steps=50, clip=1e9),
            start=warm_start(adapted, alpha=1e20),
        )  # fmt: skip
    assert caught.value.code == "diverged"


def test_fresh_start_is_base_weight_with_b_drawn(made: tuple[BaseModel, AdaptedModel]) -> None:
    """A as peft draws it; B zero, or of the wanted spread."""
    layout = made[1].layout
    for b_std in (0.0, 0.5):
        start = fresh_start(layout, replace(QUICK, b_std=b_std))
        b = torch.cat([layout.b(start.theta, i).flatten() for i in range(len(layout.sites))])
        assert float(b.std()) == pytest.approx(b_std, abs=0.1)
        assert float(layout.a(start.theta, 0).abs().max()) > 0


def test_shipped_presets_load() -> None:
    """Every preset of both kinds is one, with the papers' numbers where they give some."""
    metas = {n: load_preset(MetaInitSettings, "meta-init", n) for n in preset_names("meta-init")}
    tunes = {n: load_preset(FinetuneSettings, "finetune", n) for n in preset_names("finetune")}
    sizes = {(n[-2:], m.lora.rank, m.lora.alpha, m.lora.layers) for n, m in metas.items()}
    assert sizes >= {("1b", 16, 32.0, "8-15"), ("3b", 8, 16.0, "14-27"), ("8b", 8, 16.0, "16-31")}
    assert metas["regrad-8b"].lora.rank == 4
    assert all(m.inner.joined for n, m in metas.items() if n.startswith("meta-pg"))
    assert all(m.inner.passages == 3 for n, m in metas.items() if n.startswith("regrad"))
    assert {m.lr for n, m in metas.items() if n != "meta-mini"} == {4e-4}
    knowledge = tunes["knowledge-update"]
    assert (knowledge.lora.rank, knowledge.betas, knowledge.epochs) == (64, (0.9, 0.95), 20)
    assert {"ft", "dapt", "qa-base"} <= set(tunes)
