"""Gates are trained by MeteoRA's loss, route tokens to their task, and resume exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gate_making import NAMES, QUICK, experts_of, letter_tasks, stacked
from meta_making import adapted_model, sharp_base, weights_of

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel
from adapterdb.errors import InvalidInput, Mismatch
from adapterdb.prototype import cores
from adapterdb.training.gate.bank import gate_size, site_slices
from adapterdb.training.gate.calibration import arrow_scales
from adapterdb.training.gate.objective import (
    NONE,
    GateSettings,
    RoutedSequence,
    factors_of,
    joined,
    learned_gates,
    positions,
    route,
    routed_sequences,
)
from adapterdb.training.gate.run import examples_of, train_gate
from adapterdb.training.presets import load_preset, preset_names
from adapterdb.training.schedule import Progress
from adapterdb.training.tasks import Task

TASKS, ASIDE = letter_tasks(0, 16), letter_tasks(40, 6)
PLACES = {name: place for place, name in enumerate(NAMES)}


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> tuple[BaseModel, AdaptedModel]:
    """A tiny model, hooked."""
    base = sharp_base(tiny_folder("llama"))
    return base, adapted_model(base)


def test_a_gate_learns_to_route_and_leaves_the_rest_alone(
    made: tuple[BaseModel, AdaptedModel],
) -> None:
    """Most set-aside tokens go to their own delta; the deltas and the base are as they were."""
    base, adapted = made
    before, experts = weights_of(base.model), experts_of(adapted)
    settings = replace(QUICK, lr=0.3, max_steps=60, evaluate_every=30)
    result = train_gate(adapted, base.encoder, experts, TASKS, ASIDE, settings)
    first, last = result.curve
    assert last["routed"] > 0.5  # of three; outside the question a token can't know whose it is
    assert last["gate"] < first["gate"]
    assert last["loss"] == pytest.approx(last["lm"] + last["gate"], rel=1e-5)
    assert result.bank.ids == ("id-digits", "id-lower", "id-upper")
    assert result.facts["best_step"] == 60
    assert torch.equal(result.rows, stacked(experts))
    assert all(torch.equal(base.model.state_dict()[n], t) for n, t in before.items())


def test_deltas_learn_too_where_asked(made: tuple[BaseModel, AdaptedModel]) -> None:
    """All three rows move, and the rows given are left as they were."""
    base, adapted = made
    experts = experts_of(adapted)
    kept = stacked(experts)
    settings = replace(QUICK, train_deltas=True, delta_lr=1e-3)
    result = train_gate(adapted, base.encoder, experts, TASKS, ASIDE, settings)
    assert ((result.rows - kept).abs().amax(-1) > 1e-4).all()
    assert torch.equal(stacked(experts), kept)


def test_the_loss_is_meteoras(made: tuple[BaseModel, AdaptedModel]) -> None:
    """LM loss and gate loss of a batch, written out: shifted labels, top 2 of 3, temperature 3."""
    base, adapted = made
    layout, experts = adapted.layout, experts_of(adapted)
    vectors = torch.randn(3, gate_size(layout), generator=torch.Generator().manual_seed(1)) * 0.3
    some = [TASKS[0], TASKS[16], TASKS[33]]
    sequences = routed_sequences(some, base.encoder, PLACES)
    sequences[0] = replace(sequences[0], experts=(NONE, NONE, NONE, *sequences[0].experts[3:]))
    found, _ = route(
        adapted, factors_of(layout, stacked(experts)), learned_gates(layout, vectors, 2, 3.0),
        sequences,
    )  # fmt: skip
    lm, gate, right = 0.0, 0.0, torch.zeros(len(layout.sites))
    for s in sequences:
        inputs: dict[int, torch.Tensor] = {}
        handles = [
            base.model.get_submodule(site.name).register_forward_hook(
                by_hand(inputs, i, adapted, stacked(experts), vectors)
            )
            for i, site in enumerate(layout.sites)
        ]
        ids = torch.tensor([s.ids])
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0, :-1]
        for handle in handles:
            handle.remove()
        lm += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        wanted = torch.tensor(s.experts[1:])
        for i, part in enumerate(site_slices(layout)):
            own = inputs[i][:-1] @ vectors[:, part].T
            gate += float(F.cross_entropy(own, wanted, reduction="sum"))
            right[i] += (own.argmax(-1) == wanted).sum()
    assert float(found.lm) == pytest.approx(lm, rel=1e-3)
    assert float(found.gate) == pytest.approx(gate, rel=1e-3)
    assert found.right.tolist() == right.tolist()
    assert (found.said, found.sent) == positions(sequences)
    assert found.said - found.sent == 2


def by_hand(
    inputs: dict[int, torch.Tensor],
    site: int,
    adapted: AdaptedModel,
    rows: torch.Tensor,
    vectors: torch.Tensor,
) -> Callable[..., torch.Tensor]:
    """A hook that gates each token in a loop, and remembers the linear's input ``(T, H1)``."""

    def add(_: object, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        layout = adapted.layout
        x = inputs[site] = given[0][0]
        a, b = layout.views(rows)[site]
        out = y.clone()
        for t in range(len(x)):
            logits = vectors[:, site_slices(layout)[site]] @ x[t]
            values, best = logits.topk(2)
            for weight, k in zip((values / 3.0).softmax(0), best, strict=True):
                out[0, t] += weight * layout.scale * (b[k].T @ (a[k] @ x[t]))
        return out

    return add


def test_parts_of_a_batch_add_up(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Eight sequences at once or three at a time: the same vectors after two steps."""
    base, adapted = made
    settings = replace(QUICK, max_steps=2, top_k=1, mask="answer")
    found = [
        train_gate(
            adapted, base.encoder, experts_of(adapted), TASKS, (), replace(settings, at_once=n)
        ).bank.vectors
        for n in (8, 3)
    ]
    torch.testing.assert_close(found[0], found[1], atol=2e-4, rtol=0)


def test_one_delta_a_token_leaves_vectors_to_the_gates_loss(
    made: tuple[BaseModel, AdaptedModel],
) -> None:
    """With top_k 1 every weight is 1: only with top_k 2 does the text's loss move vectors."""
    base, adapted = made
    settings = replace(QUICK, gate_weight=0.0, weight_decay=0.0, max_steps=2)
    given = (adapted, base.encoder, experts_of(adapted), TASKS, ())
    begin = torch.randn(3, gate_size(adapted.layout), generator=torch.Generator().manual_seed(0))
    for k, moves in ((1, False), (2, True)):
        vectors = train_gate(*given, replace(settings, top_k=k)).bank.vectors
        assert bool((vectors - 0.1 * begin).abs().max() > 1e-3) is moves


def test_the_stored_gate_acts_as_the_trained_one(made: tuple[BaseModel, AdaptedModel]) -> None:
    """Deltas in another order, by their ids: the same losses and the same choices."""
    base, adapted = made
    experts = experts_of(adapted)
    settings = replace(QUICK, max_steps=4, temperature=2.0)
    bank = train_gate(adapted, base.encoder, experts, TASKS, ASIDE, settings).bank
    layout, rows = adapted.layout, stacked(experts)
    sequences = routed_sequences(ASIDE, base.encoder, PLACES)
    turned = [2, 0, 1]
    mixed = [
        replace(s, experts=tuple(turned.index(expert) for expert in s.experts)) for s in sequences
    ]
    gates = learned_gates(layout, bank.vectors, 2, 2.0)
    trained, _ = route(adapted, factors_of(layout, rows), gates, sequences)
    stored, _ = route(
        adapted, factors_of(layout, rows[turned]),
        bank.token_gates(layout, [experts[i].id for i in turned]), mixed,
    )  # fmt: skip
    assert float(stored.lm) == pytest.approx(float(trained.lm), rel=1e-5)
    assert float(stored.gate) == pytest.approx(float(trained.gate), rel=1e-5)
    assert stored.right.tolist() == trained.right.tolist()


class Stop(Exception):
    """Ends a run from outside."""


def test_resumed_run_is_bit_equal(made: tuple[BaseModel, AdaptedModel], tmp_path: Path) -> None:
    """Stopped after step 5 and resumed from the save at 4: the same gate, deltas and curve."""
    base, adapted = made
    settings = replace(QUICK, train_deltas=True)
    given = (adapted, base.encoder, experts_of(adapted), TASKS, ASIDE, settings)
    whole = train_gate(*given)
    file = tmp_path / "run.safetensors"

    def stop(at: Progress) -> None:
        if at.step == 5:
            raise Stop

    with pytest.raises(Stop):
        train_gate(*given, checkpoint=file, on_progress=stop)
    steps: list[int] = []
    again = train_gate(*given, checkpoint=file, on_progress=lambda at: steps.append(at.step))
    assert steps == [5, 6, 7, 8]
    assert torch.equal(again.bank.vectors, whole.bank.vectors)
    assert torch.equal(again.rows, whole.rows)
    drop = [
        {k: v for k, v in row.items() if k != "minutes"} for row in (*again.curve, *whole.curve)
    ]
    assert drop[:2] == drop[2:]
    with pytest.raises(Mismatch, match="other settings"):
        train_gate(*given[:-1], replace(settings, lr=1.0), checkpoint=file)


@pytest.mark.parametrize("count", [1, 3])
def test_arrow_is_brought_to_the_learned_logits(
    made: tuple[BaseModel, AdaptedModel], count: int
) -> None:
    """After scale and offset, both kinds have the same mean and spread on the tokens measured."""
    base, adapted = made
    layout, rows = adapted.layout, stacked(experts_of(adapted))[:count]
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(count, gate_size(layout), generator=generator)
    sequences = routed_sequences(TASKS[:6], base.encoder, PLACES)
    scales = arrow_scales(adapted, rows, vectors, 2, 1.0, sequences, at_once=4)
    assert scales.shape == (len(layout.sites), 2)
    seen: dict[int, list[torch.Tensor]] = {}
    own = cores(layout, rows)
    gates = learned_gates(layout, vectors, 2, 1.0)
    prompts: dict[int, list[torch.Tensor]] = {}

    def note(site: int, logits: torch.Tensor) -> None:
        seen.setdefault(site, []).append(logits)

    handles = [
        base.model.get_submodule(site.name).register_forward_pre_hook(
            lambda _, given, i=i: prompts.setdefault(i, []).append(given[0])
        )
        for i, site in enumerate(layout.sites)
    ]
    for sequence in sequences:  # one at a time: no padding among the inputs
        route(adapted, factors_of(layout, rows), gates, [sequence], note=note)
    for handle in handles:
        handle.remove()
    for site in range(len(layout.sites)):
        learned = torch.cat(seen[site])
        x = torch.cat([inputs[0, :-1] for inputs in prompts[site]])
        prototypes = torch.stack([own[k, site] @ layout.a(rows[k], site) for k in range(count)])
        scale, offset = scales[site]
        arrow = (x @ prototypes.T).abs() * scale + offset
        assert float(arrow.mean()) == pytest.approx(float(learned.mean()), abs=1e-3)
        if count > 1:
            spreads = [
                (z - z.mean(-1, keepdim=True)).square().mean().sqrt() for z in (arrow, learned)
            ]
            assert float(spreads[0]) == pytest.approx(float(spreads[1]), rel=1e-3)


def test_texts_of_several_tasks_teach_gates_to_switch(
    made: tuple[BaseModel, AdaptedModel],
) -> None:
    """Every question is in one text once; only answers carry loss; every token keeps its delta."""
    base, adapted = made
    alone = routed_sequences(TASKS, base.encoder, PLACES, mask="answer")
    texts = joined(alone, 3, 120, 5)
    assert 1 < max(len(set(text.experts)) for text in texts) <= 3
    assert all(len(text.ids) <= 120 for text in texts)
    assert positions(texts)[0] == positions(alone)[0]
    pieces = []
    for text in texts:
        starts = [0, *(first for first, _ in text.silent), len(text.ids)]
        for begin, end in itertools.pairwise(starts):
            assert len(set(text.experts[begin:end])) == 1
            pieces.append((text.ids[begin:end], text.experts[begin]))
    assert sorted(pieces) == sorted((s.ids, s.experts[0]) for s in alone)
    layout = adapted.layout
    acting = (
        factors_of(layout, stacked(experts_of(adapted))),
        learned_gates(layout, torch.zeros(3, gate_size(layout)), 2, 1.0),
    )
    found, _ = route(adapted, *acting, texts[:3])
    assert (found.said, found.sent) == positions(texts[:3])
    result = train_gate(
        adapted, base.encoder, experts_of(adapted), TASKS, ASIDE, replace(QUICK, turns=3)
    )
    assert result.facts["examples"] < len(TASKS)


def test_what_cannot_be_learned_is_named(made: tuple[BaseModel, AdaptedModel]) -> None:
    """One delta, a task without a delta, a delta without an example, an example on both sides."""
    base, adapted = made
    experts = experts_of(adapted)
    cases = [
        (experts[:1], TASKS[:16], (), "two or more"),
        (experts[:2], TASKS, (), "task 'upper' has no delta"),
        (experts, TASKS[:32], (), "no example of task 'upper'"),
        (experts, TASKS, TASKS[:2], "2 set-aside examples"),
    ]
    for given, tasks, aside, words in cases:
        with pytest.raises(InvalidInput, match=words):
            train_gate(adapted, base.encoder, given, tasks, aside, QUICK)
    with pytest.raises(InvalidInput, match="'q7' names no task"):
        examples_of([Task("q7", "?", ("a",), (), ())], ())
    names, learned, aside_too = examples_of(TASKS, ASIDE, ["upper", "digits", "upper"])
    assert names == ["upper", "digits"]
    assert {task.task for task in (*learned, *aside_too)} == {"upper", "digits"}


def test_examples_of_a_task_are_capped_and_cut(made: tuple[BaseModel, AdaptedModel]) -> None:
    """At most per_task examples of each task are learned from; long ones lose their end."""
    base, adapted = made
    settings = replace(QUICK, max_steps=1, per_task=3)
    result = train_gate(adapted, base.encoder, experts_of(adapted), TASKS, ASIDE, settings)
    assert result.facts["examples"] == 9
    (short,) = routed_sequences(TASKS[:1], base.encoder, PLACES, max_tokens=5)
    assert (len(short.ids), short.experts) == (5, (0,) * 5)
    assert not routed_sequences(TASKS[:1], base.encoder, PLACES, mask="answer", max_tokens=5)
    assert positions([RoutedSequence((1, 2, 3), 2, (0, NONE, 1))]) == (1, 1)


def test_gate_presets_are_readable() -> None:
    """The paper's numbers and mini's; settings that make no sense are named."""
    presets = {name: load_preset(GateSettings, "gate", name) for name in preset_names("gate")}
    paper = presets["gate"]
    assert (paper.gate_weight, paper.top_k, paper.mask, paper.init_scale) == (50.0, 2, "all", 1.0)
    assert (paper.lr, paper.clip, paper.max_steps) == (5e-4, 0.3, 15_000)
    assert not paper.train_deltas
    assert "gate-mini" in presets
    for wrong in ({"temperature": 0.0}, {"top_k": 0}, {"lr": -1.0}, {"betas": (0.9,)}):
        with pytest.raises(InvalidInput, match="gate 'x'"):
            GateSettings("x", **wrong)  # type: ignore[arg-type]
