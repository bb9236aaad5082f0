"""A stored gate: bound to ids, read back whole, completed by prototypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gate_making import experts_of, stacked
from meta_making import adapted_model, sharp_base

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import Corrupt, InvalidInput, Mismatch
from adapterdb.kernels import add_gated
from adapterdb.prototype import cores
from adapterdb.training.gate.bank import GateBank, gate_size, site_slices


@pytest.fixture
def adapted(tiny_folder: Callable[[str], Path]) -> AdaptedModel:
    return adapted_model(sharp_base(tiny_folder("llama")))


def bank_of(adapted: AdaptedModel, ids: tuple[str, ...] = ("a", "b", "c")) -> GateBank:
    """A gate of normal vectors."""
    generator = torch.Generator().manual_seed(3)
    layout = adapted.layout
    vectors = torch.randn(len(ids), gate_size(layout), generator=generator)
    arrow = torch.rand(len(layout.sites), 2, generator=generator)
    return GateBank(ids, vectors, arrow, 2, 1.5, layout.fingerprint)


def test_slices_cover_all_inputs_in_layout_order(adapted: AdaptedModel) -> None:
    """Each site has as many numbers as its linear has inputs, one site after the other."""
    parts = site_slices(adapted.layout)
    assert [p.stop - p.start for p in parts] == [s.in_features for s in adapted.layout.sites]
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
    assert parts[-1].stop == gate_size(adapted.layout)


def test_a_gate_comes_back_as_it_was(adapted: AdaptedModel) -> None:
    """Tensors hold everything, the fingerprint follows all of it, rubbish is Corrupt."""
    bank = bank_of(adapted)
    again = GateBank.from_tensors(bank.to_tensors())
    assert again.ids == bank.ids
    assert torch.equal(again.vectors, bank.vectors)
    assert torch.equal(again.arrow, bank.arrow)
    assert (again.top_k, again.temperature, again.layout) == (2, 1.5, bank.layout)
    others = [
        replace(bank, ids=("a", "c", "b")), replace(bank, vectors=bank.vectors + 1),
        replace(bank, arrow=bank.arrow + 1), replace(bank, top_k=1), replace(bank, temperature=2.0),
        replace(bank, layout="x"),
    ]  # fmt: skip
    assert again.fingerprint == bank.fingerprint
    assert len({bank.fingerprint, *(other.fingerprint for other in others)}) == 7
    with pytest.raises(Corrupt, match="can't be read"):
        GateBank.from_tensors({"vectors": bank.vectors, "arrow": bank.arrow})


def test_vectors_follow_ids_not_places(adapted: AdaptedModel) -> None:
    """Deltas in any order get their own vectors; one never learned gets none."""
    bank = bank_of(adapted)
    learned, vectors = bank.known(["c", "new", "a"])
    assert learned.tolist() == [True, False, True]
    assert torch.equal(vectors, torch.stack([bank.vectors[2], vectors[1] * 0, bank.vectors[0]]))
    assert (bank.index("b"), bank.index("new")) == (1, None)


def test_unseen_deltas_take_part_by_scaled_prototypes(adapted: AdaptedModel) -> None:
    """Logits are x . vector for learned deltas and scale * |x . v| + offset for another one."""
    bank, layout = bank_of(adapted), adapted.layout
    rows = stacked(experts_of(adapted))
    own = cores(layout, rows)
    gates = bank.token_gates(layout, ["b", "new", "c"], own)
    site = len(layout.sites) - 1
    a, b = layout.views(rows)[site]
    x = torch.randn(1, 6, a.shape[-1], generator=torch.Generator().manual_seed(1))
    y = torch.zeros(1, 6, b.shape[-1])
    made = add_gated(y, x, a.flatten(0, 1)[None], b.flatten(0, 1)[None], gates[site])
    part = site_slices(layout)[site]
    prototype = own[1, site] @ a[1]
    assert prototype.norm().item() == pytest.approx(1, abs=1e-4)
    scale, offset = bank.arrow[site]
    wanted = torch.stack(
        [
            x[0] @ bank.vectors[1, part],
            (x[0] @ prototype).abs() * scale + offset,
            x[0] @ bank.vectors[2, part],
        ],
        dim=-1,
    )
    torch.testing.assert_close(made.logits[0], wanted, atol=1e-4, rtol=1e-4)
    assert (made.weights[0] > 0).sum(-1).tolist() == [2] * 6
    with pytest.raises(InvalidInput, match="has not learned delta 'new'"):
        bank.token_gates(layout, ["a", "new"])


def test_what_does_not_fit_is_refused(adapted: AdaptedModel) -> None:
    """Ids twice, too few vectors, a temperature of 0, and rows of another layout."""
    bank = bank_of(adapted)
    for wrong in ({"ids": ("a", "a", "b")}, {"ids": ("a",)}, {"temperature": 0.0}, {"top_k": 0}):
        with pytest.raises(InvalidInput):
            replace(bank, **wrong)  # type: ignore[arg-type]
    with pytest.raises(Mismatch, match="the gate is of layout other"):
        replace(bank, layout="other").token_gates(adapted.layout, ["a"])
