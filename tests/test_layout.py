"""Where factors sit in a row: views without copies, order, families, and the planner's choices."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from adapterdb.base_model import load_base_model
from adapterdb.errors import InvalidInput, Mismatch
from adapterdb.layout import DeltaLayout, LoraSpec, Site, plan_layout

LINEARS = [
    (f"model.layers.{layer}.{name}", h1, h2)
    for layer in range(4)
    for name, h1, h2 in (
        ("self_attn.q_proj", 8, 8),
        ("self_attn.k_proj", 8, 4),
        ("self_attn.v_proj", 8, 4),
        ("self_attn.o_proj", 8, 8),
        ("mlp.gate_proj", 8, 12),
        ("mlp.up_proj", 8, 12),
        ("mlp.down_proj", 12, 8),
    )
] + [("lm_head", 8, 99)]


def layout(targets: tuple[str, ...] = ("all",), layers: str = "all") -> DeltaLayout:
    """Rank 2 over four Llama-like layers."""
    return plan_layout(LoraSpec(2, 4.0, targets, layers), LINEARS)


def test_views_tile_the_row_without_copies() -> None:
    """Every number of a row belongs to exactly one factor, and views share the row's memory."""
    it = layout()
    row = torch.zeros(it.size)
    for i in range(len(it.sites)):
        it.a(row, i).add_(1)
        it.b(row, i).add_(1)
    assert torch.equal(row, torch.ones(it.size))
    assert it.size == sum(2 * (s.in_features + s.out_features) for s in it.sites)


def test_sites_that_read_one_input_are_neighbours() -> None:
    """The A of q, k, v and of gate, up lie side by side, so that one shrink can serve them."""
    it = layout()
    at = {site.name: it.offsets[i] for i, site in enumerate(it.sites)}
    for group, width in ((("q", "k", "v"), 8), (("gate", "up"), 8)):
        names = [
            n for n in at if n.startswith("model.layers.1.") and n.split(".")[-1][:-5] in group
        ]
        starts = [at[name][0] for name in names]
        assert len(names) == len(group)
        assert [y - x for x, y in pairwise(starts)] == [2 * width] * (len(names) - 1)


def test_stacked_families_are_the_same_views() -> None:
    """A family's stacked view holds each member's A and B, for any leading dimensions."""
    it = layout()
    rows = torch.randn(3, 2, it.size)[1:]
    seen = []
    for family in it.families:
        a, b = it.stacked(rows, family)
        for n, index in enumerate(family.indices):
            assert torch.equal(a.flatten(-4, -3)[..., n, :, :], it.a(rows, index))
            assert torch.equal(b.flatten(-4, -3)[..., n, :, :], it.b(rows, index))
        seen += family.indices
    assert sorted(seen) == list(range(len(it.sites)))
    assert len(it.families) == 6  # q, k, v and o of four layers; gate with up; down


def test_families_of_uneven_distance_are_split() -> None:
    """Sites alike in shape but not equally far apart are not stacked wrongly."""
    sites = (
        Site("m.0.up_proj", 3, 5, 0),
        Site("m.1.up_proj", 3, 5, 1),
        Site("m.1.down_proj", 5, 3, 2),
        Site("m.2.up_proj", 3, 5, 3),
    )
    it = DeltaLayout(1, 1.0, sites)
    rows = torch.randn(2, it.size)
    for family in it.families:
        a, _ = it.stacked(rows, family)
        for n, index in enumerate(family.indices):
            assert torch.equal(a.flatten(1, 2)[:, n], it.a(rows, index))


def test_pack_and_unpack_round_trip() -> None:
    """What is packed is unpacked; a missing site or a wrong shape is named."""
    it = layout(("mlp",))
    factors = {
        s.name: (torch.randn(2, s.in_features), torch.randn(s.out_features, 2)) for s in it.sites
    }
    back = it.unpack(it.pack(factors, torch.zeros(it.size)))
    assert all(
        torch.equal(back[n][0], a) and torch.equal(back[n][1], b) for n, (a, b) in factors.items()
    )
    name = it.sites[0].name
    with pytest.raises(Mismatch, match="missing"):
        it.pack({n: f for n, f in factors.items() if n != name}, torch.zeros(it.size))
    with pytest.raises(Mismatch, match=name):
        it.pack(factors | {name: (torch.zeros(3, 8), torch.zeros(12, 3))}, torch.zeros(it.size))


def test_round_trip_through_data_keeps_the_fingerprint() -> None:
    """A layout read back from its data is the same; another rank has another fingerprint."""
    it = layout()
    assert DeltaLayout.from_dict(it.to_dict()) == it
    assert DeltaLayout.from_dict(it.to_dict()).fingerprint == it.fingerprint
    assert plan_layout(LoraSpec(3, 4.0, ("all",)), LINEARS).fingerprint != it.fingerprint


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", {0, 1, 2, 3}), ("upper-half", {2, 3}), ("upper-1", {3}), ("1-2", {1, 2})],
)
def test_layers_are_chosen(layers: str, expected: set[int]) -> None:
    """Each way to name layers adapts those and no others; the head never."""
    sites = layout(("mlp",), layers).sites
    assert {int(site.name.split(".")[2]) for site in sites} == expected
    assert {site.name.split(".")[-1] for site in sites} == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("kind", "target", "count"),
    [
        ("llama", "mlp", 6), ("llama", "attn", 8), ("llama", "all", 14), ("llama", "q_proj", 2),
        ("gpt2", "mlp", 4), ("gpt2", "attn", 4), ("gpt2", "all", 8),
        ("bert", "mlp", 4), ("bert", "attn", 8), ("bert", "all", 12),
    ],
)  # fmt: skip
def test_targets_find_the_modules_of_each_architecture(
    tiny_folder: Callable[[str], Path], kind: str, target: str, count: int
) -> None:
    """In two layers each target names the linears it should, and no site twice."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    sites = plan_layout(LoraSpec(2, targets=(target,)), base.linears()).sites
    assert len({site.name for site in sites}) == len(sites) == count
    if (kind, target) == ("bert", "mlp"):
        assert not any("attention" in site.name for site in sites)


@pytest.mark.parametrize(
    "spec",
    [
        {"rank": 0}, {"rank": 2000}, {"alpha": 0.0}, {"alpha": float("nan")}, {"targets": ()},
        {"layers": "some"}, {"layers": "3-1"}, {"layers": "upper-0"},
    ],
)  # fmt: skip
def test_bad_specs_are_refused(spec: dict[str, object]) -> None:
    """A spec outside its range is refused where it is made."""
    with pytest.raises(InvalidInput):
        LoraSpec(**spec)  # type: ignore[arg-type]


def test_unknown_target_lists_what_there_is() -> None:
    """A target that matches nothing is an error that names the model's own linears."""
    with pytest.raises(InvalidInput) as caught:
        layout(("c_attn",))
    assert "q_proj" in caught.value.hint
