"""Folding a mixture into copies of the weights, and choosing when it pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb.answers import Mixture
from adapterdb.base_model import load_base_model
from adapterdb.engine.costs import Chooser, Costs, Work
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.store.rows import RowRef
from adapterdb.training.start import Start

IDS = torch.tensor([[1, 40, 41, 42, 43, 44], [1, 50, 51, 52, 53, 54]])
NAME = "model.layers.0.mlp.up_proj.weight"
MIXTURE = Mixture((("a", 0.7), ("b", 0.5)))


def made(tiny_folder: Callable[[str], Path], kind: str) -> Runtime:
    """A runtime over all linears of a tiny model, with random rows a and b."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    layout = plan_layout(LoraSpec(rank=2, alpha=4.0, targets=("all",)), base.linears())
    generator = torch.Generator().manual_seed(3)
    rows = {n: torch.randn(layout.size, generator=generator) * 0.2 for n in "ab"}
    zero = Start(torch.zeros(layout.size), torch.zeros(layout.size))
    return Runtime(
        base, layout, zero, slots=2, dtype=torch.float32,
        load=lambda row, slot: slot.copy_(rows[row.file]),  # type: ignore[arg-type,return-value]
    )  # fmt: skip


REGISTERED = {n: Registered("lora", RowRef(n, 0, 0, "float32", "", 1.0)) for n in "ab"}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_folded_and_slots_give_the_same(tiny_folder: Callable[[str], Path], kind: str) -> None:
    """The logits agree, and afterwards the base weights are the very same tensors, bit for bit."""
    it = made(tiny_folder, kind)
    before = {n: (t.data_ptr(), t.clone()) for n, t in it.base.model.state_dict().items()}
    logits = {}
    for how in ("slots", "fold"):
        with it.acting([MIXTURE] * 2, REGISTERED, how=how) as model:  # type: ignore[arg-type]
            logits[how] = model(IDS).logits
            assert it.acted.how == how
    plain = it.base.model(IDS).logits
    assert (logits["slots"] - plain).abs().max() > 1e-2
    torch.testing.assert_close(logits["fold"], logits["slots"], atol=2e-5, rtol=1e-5)
    for name, tensor in it.base.model.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_an_error_inside_leaves_the_weights(tiny_folder: Callable[[str], Path]) -> None:
    """Whatever happens while a mixture is folded, the base is what it was."""
    it = made(tiny_folder, "llama")
    plain = it.base.model(IDS).logits
    with pytest.raises(RuntimeError), it.acting([MIXTURE], REGISTERED, how="fold"):
        raise RuntimeError
    assert torch.equal(it.base.model(IDS).logits, plain)


@pytest.mark.parametrize("inner", ["slots", "fold"])
@pytest.mark.parametrize("outer", ["slots", "fold"])
def test_a_request_inside_a_request(
    tiny_folder: Callable[[str], Path], outer: str, inner: str
) -> None:
    """Who asks while reading a stream gets the answer alone, and the stream goes on as it was."""
    it = made(tiny_folder, "llama")
    other = Mixture((("b", -1.0),))
    plain = it.base.model.state_dict()[NAME].clone()
    want = {}
    for name, mixture in (("outer", MIXTURE), ("inner", other), ("base", Mixture())):
        with it.acting([mixture], REGISTERED) as model:
            want[name] = model(IDS).logits
    with it.acting([MIXTURE], REGISTERED, how=outer) as model:  # type: ignore[arg-type]
        for mixture, name in ((other, "inner"), (Mixture(), "base")):
            how = inner if mixture.parts else None
            with it.acting([mixture], REGISTERED, how=how) as again:  # type: ignore[arg-type]
                torch.testing.assert_close(again(IDS).logits, want[name], atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(model(IDS).logits, want["outer"], atol=2e-5, rtol=1e-5)
        with it.lock:  # as ingest and training take it
            assert torch.equal(it.base.model.state_dict()[NAME], plain)
    assert torch.equal(it.base.model(IDS).logits, want["base"])


def test_what_differs_by_row_is_never_folded(tiny_folder: Callable[[str], Path]) -> None:
    """Mixtures that differ or are gated take slots, and asking for folding is refused."""
    it = made(tiny_folder, "llama")
    long = Work(10, 4096)
    for mixtures in ([MIXTURE, Mixture()], [Mixture(MIXTURE.parts, "arrow")] * 2):
        with it.acting(mixtures, REGISTERED, work=long):
            assert it.acted.how == "slots"
        with pytest.raises(InvalidInput), it.acting(mixtures, REGISTERED, how="fold"):
            pass


def test_the_cheaper_way_is_chosen() -> None:
    """Slots for short answers without measuring; beyond that what costs and lengths say."""
    asked = []

    def costs() -> Costs:
        asked.append(1)
        return Costs(fold=30.0, step=0.5, token=0.01)

    chooser = Chooser()
    assert chooser.choose(None, costs) == chooser.choose(Work(500, 20), costs) == "slots"
    assert not asked
    assert chooser.choose(Work(100, 64), costs) == "slots"  # 1 + 16 ms
    assert chooser.choose(Work(100, 256), costs) == "fold"  # 1 + 64 ms
    assert len(asked) == 1
    for _ in range(60):
        chooser.observe(256, 2)
    assert chooser.choose(Work(100, 256), costs) == "slots"  # answers turn out short


def test_costs_are_measured_when_they_matter(tiny_folder: Callable[[str], Path]) -> None:
    """A long answer has its mixture's costs measured once; they are figures, not guesses."""
    it = made(tiny_folder, "llama")
    with it.acting([MIXTURE], REGISTERED, work=Work(10, 512)) as model:
        model(IDS[:1])
    assert it.chooser.costs is not None
    assert it.chooser.costs.fold > 0
    assert it.acted.costs == it.chooser.costs
