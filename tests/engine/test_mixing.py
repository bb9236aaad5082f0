"""Every composition acting through the runtime, against the rows it stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapterdb import prototype
from adapterdb.answers import MERGES, Composition, Dials, Mixture
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.merge import merge
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.errors import InvalidInput
from adapterdb.kernels import Gated
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from adapterdb.store.rows import RowRef
from adapterdb.training.gate.bank import GateBank, gate_size, site_slices
from adapterdb.training.start import Start

IDS = torch.tensor([[1, 40, 41, 42, 43, 44]])
PARTS = (("a", 0.5), ("b", 0.3), ("c", 0.2))


class Setting:
    """A tiny model, rows a to d of which some are gradients, and a runtime over them."""

    def __init__(self, folder: Path, gradient: str = "", gate: GateBank | None = None) -> None:
        self.base: BaseModel = load_base_model(str(folder), dtype="float32")
        self.layout: DeltaLayout = plan_layout(
            LoraSpec(rank=2, alpha=4.0, targets=("all",)), self.base.linears()
        )
        generator = torch.Generator().manual_seed(3)
        size = self.layout.size
        self.rows = {n: torch.randn(size, generator=generator) * 0.2 for n in "abcd"}
        self.start = Start(
            torch.randn(size, generator=generator) * 0.1, torch.rand(size, generator=generator)
        )
        self.registered = {
            n: Registered(
                "gradient" if n in gradient else "lora", RowRef(n, 0, 0, "float32", "", 1.0)
            )
            for n in "abcd"
        }
        self.gate = gate
        self.runtime = Runtime(
            self.base, self.layout, self.start, slots=4, dtype=torch.float32,
            load=lambda row, slot: slot.copy_(self.rows[row.file]),  # type: ignore[arg-type,return-value]
            gate=lambda: self.gate,
        )  # fmt: skip

    def factors(self, name: str) -> Tensor:
        """The factor row a delta acts with alone."""
        row = self.rows[name]
        return self.start.step(row) if self.registered[name].kind == "gradient" else row

    def logits(self, *mixtures: Mixture) -> Tensor:
        """One row for each mixture."""
        with self.runtime.acting(mixtures, self.registered) as model:
            return model(IDS.expand(len(mixtures), -1)).logits  # type: ignore[no-any-return]

    def of_row(self, row: Tensor) -> Tensor:
        """The logits of one factor row acting with weight 1."""
        with self.runtime.adapted.using_rows(row[None]):
            return self.base.model(IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("gradient", ["", "abc", "b"])
@pytest.mark.parametrize("composition", MERGES)
def test_a_merge_acts_as_its_row(
    tiny_folder: Callable[[str], Path], composition: Composition, gradient: str
) -> None:
    """Beside other mixtures in one batch, a merge acts as the one row its operator makes."""
    it = Setting(tiny_folder("llama"), gradient)
    dials = Dials(density=0.5, seed=3)
    found = it.logits(Mixture(PARTS, composition, dials), Mixture((("d", 1.0),)), Mixture())
    rows = torch.stack([it.factors(name) for name, _ in PARTS])
    weights = torch.tensor([weight for _, weight in PARTS])
    base = it.start.theta if gradient == "abc" else None
    want = it.of_row(merge(composition, it.layout, rows, weights, dials, base))  # type: ignore[arg-type]
    plain = it.base.model(IDS).logits
    assert (want - plain).abs().max() > 1e-3
    torch.testing.assert_close(found[:1], want, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[1:2], it.of_row(it.factors("d")), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[2:], plain, atol=2e-5, rtol=1e-5)


def test_gradient_is_the_sum_of_gradients(tiny_folder: Callable[[str], Path]) -> None:
    """theta - alpha * sum of w g, gamma being in the weights; LoRA deltas have no gradient."""
    it = Setting(tiny_folder("llama"), "abc")
    parts = tuple((name, 1.5) for name, _ in PARTS)
    want = it.of_row(it.start.step(1.5 * (it.rows["a"] + it.rows["b"] + it.rows["c"])))
    torch.testing.assert_close(it.logits(Mixture(parts, "gradient")), want, atol=2e-5, rtol=1e-5)
    with pytest.raises(InvalidInput, match="delta d is none"):
        it.logits(Mixture((("d", 1.0),), "gradient"))


@pytest.mark.parametrize("gradient", ["", "ab"])
def test_arrow_weighs_each_token_by_its_prototypes(
    tiny_folder: Callable[[str], Path], gradient: str
) -> None:
    """At every site the weights are the softmax of |x . v|, v from a dense decomposition."""
    it = Setting(tiny_folder("llama"), gradient)
    mixture = Mixture((("a", 1.0), ("b", 1.0), ("c", 1.0)), "arrow", Dials(top_k=2))
    inputs: dict[int, Tensor] = {}
    seen: dict[int, Gated] = {}
    for index, site in enumerate(it.layout.sites):
        module = it.base.model.get_submodule(site.name)
        module.register_forward_pre_hook(
            lambda _, given, index=index: inputs.update({index: given[0]})
        )

    def watch(index: int, gated: Gated) -> None:
        seen[index] = gated

    batch = [mixture, Mixture((("d", 0.5),)), Mixture()]
    with it.runtime.acting(batch, it.registered, watch=watch) as model:
        found = model(IDS.expand(3, -1)).logits
    for index in range(len(it.layout.sites)):
        scores = []
        for name in "abc":
            a, b = (f(it.factors(name), index) for f in (it.layout.a, it.layout.b))
            vector = torch.linalg.svd(b.T @ a).Vh[0]
            scores.append((inputs[index][0] @ vector).abs())
        values, order = torch.stack(scores, -1).topk(2)
        want = torch.zeros(len(IDS[0]), 3).scatter(-1, order, values.softmax(-1))
        torch.testing.assert_close(seen[index].weights[0], want, atol=1e-4, rtol=1e-4)
        assert torch.equal(seen[index].weights[1], torch.tensor([[1.0, 0, 0]]).expand(6, -1))
    half = it.logits(Mixture((("d", 0.5),)))
    torch.testing.assert_close(found[1:2], half, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[2:], it.base.model(IDS).logits, atol=2e-5, rtol=1e-5)


def test_stored_prototypes_are_used(tiny_folder: Callable[[str], Path]) -> None:
    """A prototype kept with a delta gives what computing it gives."""
    it = Setting(tiny_folder("llama"))
    mixture = Mixture(PARTS, "arrow")
    want = it.logits(mixture)
    for name in "abc":
        (core,) = prototype.cores(it.layout, it.factors(name)[None])
        kept = it.registered[name]._replace(prototype=prototype.to_bytes(core))
        it.registered[name] = kept
    torch.testing.assert_close(it.logits(mixture), want, atol=2e-5, rtol=1e-5)
    changed = it.registered["a"]._replace(prototype=prototype.to_bytes(core))
    it.registered["a"] = changed
    assert (it.logits(mixture) - want).abs().max() > 1e-4


def test_one_delta_gated_alone_acts_fully(tiny_folder: Callable[[str], Path]) -> None:
    """With nothing to choose from, a gate changes nothing; strength still counts."""
    it = Setting(tiny_folder("llama"), "a")
    for name in "ad":
        found = it.logits(Mixture(((name, 0.5),), "arrow"))
        with it.runtime.adapted.using(
            it.layout.views(it.factors(name)[None]), 0.5 * it.layout.scale
        ):
            want = it.base.model(IDS).logits
        torch.testing.assert_close(found, want, atol=2e-5, rtol=1e-5)


def test_a_learned_gate_decides_and_prototypes_stand_in(
    tiny_folder: Callable[[str], Path],
) -> None:
    """Known deltas go by their vectors, an unknown one by its prototype beside them."""
    it = Setting(tiny_folder("llama"))
    generator = torch.Generator().manual_seed(9)
    vectors = torch.randn(2, gate_size(it.layout), generator=generator)
    beside = torch.tensor([[2.0, 0.5]]).repeat(len(it.layout.sites), 1)
    it.gate = GateBank(("b", "a"), vectors, beside, 3, 4.0, it.layout.fingerprint)
    inputs: dict[int, Tensor] = {}
    seen: dict[int, Gated] = {}
    for index, site in enumerate(it.layout.sites):
        it.base.model.get_submodule(site.name).register_forward_pre_hook(
            lambda _, given, index=index: inputs.update({index: given[0]})
        )
    mixture = Mixture((("a", 1.0), ("b", 1.0), ("c", 1.0)), "gate")
    with it.runtime.acting(
        [mixture], it.registered, watch=lambda index, gated: seen.update({index: gated})
    ) as model:
        model(IDS)
    for index, part in enumerate(site_slices(it.layout)):
        x = inputs[index][0]
        a, b = it.layout.a(it.rows["c"], index), it.layout.b(it.rows["c"], index)
        unknown = 2.0 * (x @ torch.linalg.svd(b.T @ a).Vh[0]).abs() + 0.5
        logits = torch.stack([x @ vectors[1, part], x @ vectors[0, part], unknown], -1)
        torch.testing.assert_close(
            seen[index].weights[0], (logits / 4.0).softmax(-1), atol=1e-4, rtol=1e-4
        )


def test_a_gate_that_is_not_there_is_asked_for(tiny_folder: Callable[[str], Path]) -> None:
    """Without a trained gate the composition says how to get one."""
    it = Setting(tiny_folder("llama"))
    with pytest.raises(InvalidInput) as caught:
        it.logits(Mixture(PARTS, "gate"))
    assert caught.value.code == "no_gate"


@pytest.mark.parametrize("composition", ["cat", "svd", "arrow"])
def test_rows_that_are_not_in_use_are_not_read(
    tiny_folder: Callable[[str], Path], composition: Composition
) -> None:
    """A slot that is being filled, with what may turn out damaged, touches no other question."""
    it = Setting(tiny_folder("llama"))
    mixtures = [Mixture((("b", 0.7), ("c", 0.3)), composition), Mixture((("c", 1.0),)), Mixture()]
    with it.runtime.acting(mixtures, it.registered) as model:
        want = model(IDS.expand(3, -1)).logits
    for slot in it.runtime.pool._free:
        it.runtime.pool.rows[slot] = float("nan")
    with it.runtime.acting(mixtures, it.registered) as model:
        assert torch.equal(model(IDS.expand(3, -1)).logits, want)
