"""Merges: as peft makes them where it has them, and what each promises where it has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import MERGES, Composition, Dials
from adapterdb.base_model import load_base_model
from adapterdb.engine.merge import merge
from adapterdb.errors import InvalidInput
from adapterdb.layout import DeltaLayout, LoraSpec, Site, plan_layout

LAYOUT = DeltaLayout(
    3, 6.0, (Site("q", 20, 14, 0), Site("k", 20, 14, 0), Site("v", 20, 8, 0), Site("up", 8, 30, 1))
)
BY_ENTRY: tuple[Composition, ...] = (
    "linear",
    "magnitude_prune",
    "ties",
    "dare_linear",
    "dare_ties",
)
WEIGHTS = [0.7, -0.4, 1.3]


def random_rows(n: int = 3, layout: DeltaLayout = LAYOUT, seed: int = 0) -> Tensor:
    """Rows ``(n, P)`` of normal numbers."""
    return torch.randn(n, layout.size, generator=torch.Generator().manual_seed(seed))


def products(row: Tensor, layout: DeltaLayout = LAYOUT) -> list[Tensor]:
    """B A at every site, float64."""
    return [b.double().T @ a.double() for a, b in layout.views(row)]


def summed(rows: Tensor, weights: list[float]) -> list[Tensor]:
    """The weighted sum of B A at every site."""
    each = [products(row) for row in rows]
    return [
        sum((w * p for w, p in zip(weights, site, strict=True)), torch.zeros_like(site[0]))
        for site in zip(*each, strict=True)
    ]


def cut(dense: Tensor, rank: int) -> Tensor:
    """The nearest matrix of that rank."""
    u, s, v = torch.linalg.svd(dense, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


class Peft:
    """Adapters in a peft model of the tiny base, and the rows they are."""

    def __init__(self, folder: Path, n: int) -> None:
        from peft import LoraConfig, get_peft_model

        base = load_base_model(str(folder), device="cpu")
        spec = LoraSpec(rank=4, alpha=12.0, targets=("all",))
        self.layout = plan_layout(spec, base.linears())
        self.rows = random_rows(n, self.layout) * 0.05
        self.adapted = AdaptedModel(base.model, self.layout)
        other = load_base_model(str(folder), device="cpu").model
        config = LoraConfig(
            r=4, lora_alpha=12, lora_dropout=0.0, fan_in_fan_out=base.fan_in_fan_out,
            target_modules=[site.name for site in self.layout.sites],
        )  # fmt: skip
        self.model = get_peft_model(other, config, adapter_name="0")
        for i in range(1, n):
            self.model.add_adapter(str(i), config)
        for i, row in enumerate(self.rows):
            for name, (a, b) in self.layout.unpack(row).items():
                module = self.model.base_model.model.get_submodule(name)
                module.lora_A[str(i)].weight.data.copy_(a)
                module.lora_B[str(i)].weight.data.copy_(b)
        self.model.eval()

    def merged(self, composition: str, weights: list[float], **how: Any) -> Tensor:
        """The row of ``add_weighted_adapter``, its scale expressed in the layout's."""
        names = [str(i) for i in range(len(weights))]
        self.model.add_weighted_adapter(names, weights, "merged", composition, **how)
        gain = self.layout.scale**-0.5
        factors = {}
        for site in self.layout.sites:
            module = self.model.base_model.model.get_submodule(site.name)
            a, b = module.lora_A["merged"].weight, module.lora_B["merged"].weight
            factors[site.name] = (a * gain, b * gain)
        return self.layout.pack(factors, torch.zeros(self.layout.size))

    @torch.no_grad()
    def logits(self, ids: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Of our model under ``row``, and of peft's under what ``merged`` made."""
        self.model.set_adapter("merged")
        with self.adapted.using_rows(row[None]) as model:
            return model(input_ids=ids).logits, self.model(input_ids=ids).logits


@pytest.mark.parametrize("composition", ["linear", "svd", "ties", "magnitude_prune"])
@pytest.mark.parametrize(("kind", "weights"), [("llama", WEIGHTS), ("gpt2", [0.5, 0.2, 0.3])])
def test_merges_equal_those_of_peft(
    tiny_folder: Callable[[str], Path], composition: Composition, kind: str, weights: list[float]
) -> None:
    """Rows (for svd: B A) and logits are peft's, whatever the signs of the weights."""
    peft = Peft(tiny_folder(kind), 3)
    how = {"density": 0.3} if composition in ("ties", "magnitude_prune") else {}
    theirs = peft.merged(composition, weights, **how)
    ours = merge(composition, peft.layout, peft.rows, weights, Dials(density=0.3))
    if composition == "svd":
        pairs = zip(products(ours, peft.layout), products(theirs, peft.layout), strict=True)
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in pairs)
    else:
        assert torch.allclose(ours, theirs, atol=1e-6)
    ids = torch.tensor([[5, 9, 200, 31, 77]])
    mine, others = peft.logits(ids, ours)
    assert torch.allclose(mine, others, atol=1e-5)


def test_merges_at_random_equal_those_of_peft_in_the_mean(
    tiny_folder: Callable[[str], Path],
) -> None:
    """Over many drawings dare of peft and ours have the same mean and the same spread."""
    from peft.utils.merge_utils import dare_linear, dare_ties

    rows, weights = random_rows(2), [0.8, 0.3]
    gains = torch.tensor(weights).sqrt()
    for composition, theirs in (("dare_linear", dare_linear), ("dare_ties", dare_ties)):
        torch.manual_seed(0)
        drawn = torch.stack([theirs(list(rows), gains, 0.5) for _ in range(1200)])
        ours = torch.stack(
            [merge(composition, LAYOUT, rows, weights, Dials(seed=s)) for s in range(1200)]
        )
        error = 5 * ((drawn.var(0) + ours.var(0)) / 1200).sqrt() + 1e-6
        assert bool(((drawn.mean(0) - ours.mean(0)).abs() < error).all())
        assert torch.allclose(drawn.std(0), ours.std(0), rtol=0.2, atol=1e-3)


def test_dropping_at_random_is_of_each_delta_its_own() -> None:
    """What is dropped of a delta is the same beside any others, in any order, and by the seed."""
    rows = random_rows(3)
    nothing = torch.zeros_like(rows[:1])

    def dropped(i: int, seed: int = 4) -> Tensor:
        pair = torch.cat([rows[i : i + 1], nothing])
        return merge("dare_linear", LAYOUT, pair, [1.0, 0.0], Dials(density=0.25, seed=seed))

    mine = torch.stack([dropped(i) for i in range(3)])
    kept = mine != 0
    assert torch.allclose(mine[kept], rows[kept] / 0.25)
    assert 0.2 < float(kept.float().mean()) < 0.3
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], dropped(0, seed=5) != 0)
    dials = Dials(density=0.25, seed=4)
    for order in ([0, 1, 2], [2, 0, 1]):
        weights = [WEIGHTS[i] for i in order]
        for composition, plain in (("dare_linear", "linear"), ("dare_ties", "ties")):
            whole = merge(composition, LAYOUT, rows[order], weights, dials)
            want = merge(plain, LAYOUT, mine[order], weights, Dials(density=1.0))
            assert torch.allclose(whole, want, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_svd_is_the_nearest_of_its_rank(n: int) -> None:
    """At every site the factored svd is the cut-off svd of the dense weighted sum."""
    rows = random_rows(n, seed=n)
    weights = [0.9, -0.5, 0.3, 1.1, -2.0][:n]
    found = merge("svd", LAYOUT, rows, weights, Dials())
    for mine, dense in zip(products(found), summed(rows, weights), strict=True):
        assert torch.allclose(mine, cut(dense, LAYOUT.rank), atol=1e-5)


def test_svd_of_deltas_that_leave_ranks_empty() -> None:
    """Deltas of rank one fit into rank three whole; the sum of none of weight is nothing."""
    rows = random_rows(3)
    for index in range(len(LAYOUT.sites)):
        LAYOUT.a(rows, index)[:, 1:] = 0
    found = merge("svd", LAYOUT, rows, WEIGHTS, Dials())
    for mine, dense in zip(products(found), summed(rows, WEIGHTS), strict=True):
        assert torch.allclose(mine, dense, atol=1e-5)
    assert not merge("svd", LAYOUT, rows, [0.0] * 3, Dials()).any()


def test_orthogonal_lets_each_delta_write_where_none_before_it_did() -> None:
    """It is the nearest to the sum of B A of which the span of all earlier B is taken away."""
    rows = random_rows(3)
    LAYOUT.b(rows[0], 0)[1:] = 0  # a span of fewer dimensions than the rank
    LAYOUT.b(rows[1], 3).zero_()
    found = merge("orthogonal", LAYOUT, rows, WEIGHTS, Dials())
    each = [products(row) for row in rows]
    for site, mine in enumerate(products(found)):
        want = torch.zeros_like(mine)
        before: list[Tensor] = []
        for row, weight, made in zip(rows, WEIGHTS, each, strict=True):
            span = torch.cat([torch.zeros(len(mine), 1, dtype=torch.float64), *before], dim=1)
            away = torch.eye(len(mine)) - span @ torch.linalg.pinv(span)
            want += weight * away @ made[site]
            before.append(LAYOUT.b(row, site).double().T)
        assert torch.allclose(mine, cut(want, LAYOUT.rank), atol=1e-5)


def test_orthogonal_sums_what_does_not_meet_and_drops_what_repeats() -> None:
    """Deltas writing to different outputs are only summed; a delta twice counts once."""
    rows = random_rows(2)
    for index in range(len(LAYOUT.sites)):
        LAYOUT.a(rows, index)[:, 1:] = 0  # rank one each: their sum fits
        LAYOUT.b(rows[0], index)[:, ::2] = 0
        LAYOUT.b(rows[1], index)[:, 1::2] = 0
    found = merge("orthogonal", LAYOUT, rows, [1.0, 0.5], Dials())
    for mine, dense in zip(products(found), summed(rows, [1.0, 0.5]), strict=True):
        assert torch.allclose(mine, dense, atol=1e-5)
    again = merge("orthogonal", LAYOUT, rows[[0, 0]], [1.0, 1.0], Dials())
    for mine, dense in zip(products(again), products(rows[0]), strict=True):
        assert torch.allclose(mine, dense, atol=1e-5)


@pytest.mark.parametrize("composition", MERGES)
def test_one_delta_of_weight_one_acts_as_itself(composition: Composition) -> None:
    """Alone nothing is dropped, as peft does it; entry by entry the very row comes back."""
    row, base = random_rows(1), random_rows(1, seed=9)[0]
    for start in (None, base):
        found = merge(composition, LAYOUT, row, [1.0], Dials(), start)
        if composition in BY_ENTRY:
            assert torch.allclose(found, row[0], atol=1e-6)
        for mine, want in zip(products(found), products(row[0]), strict=True):
            assert torch.allclose(mine, want, atol=1e-5)


def test_full_density_drops_nothing() -> None:
    """With density 1 pruning and dropping are linear; in ties and dare_ties the same remains."""
    rows, whole = random_rows(), Dials(density=1.0)
    linear = merge("linear", LAYOUT, rows, WEIGHTS, whole)
    for composition in ("magnitude_prune", "dare_linear"):
        assert torch.equal(merge(composition, LAYOUT, rows, WEIGHTS, whole), linear)
    ties, dare = (merge(c, LAYOUT, rows, WEIGHTS, whole) for c in ("ties", "dare_ties"))
    assert torch.equal(ties, dare)
    assert not torch.allclose(ties, linear)


def test_densities_that_are_not_given() -> None:
    """Ties keeps a fifth of the entries, the others half."""
    rows = random_rows()
    for composition, density in (("ties", 0.2), ("magnitude_prune", 0.5), ("dare_ties", 0.5)):
        found = merge(composition, LAYOUT, rows, WEIGHTS, Dials())
        told = merge(composition, LAYOUT, rows, WEIGHTS, Dials(density=density))
        assert torch.equal(found, told)


def test_gradient_deltas_are_merged_as_steps_from_their_start() -> None:
    """With a base the operators act on rows - base with bare weights: linear is one step of all."""
    base, steps = random_rows(1, seed=5)[0], 0.01 * random_rows()
    found = merge("linear", LAYOUT, base + steps, WEIGHTS, Dials(), base)
    assert torch.allclose(found, base + torch.tensor(WEIGHTS) @ steps, atol=1e-6)
    pruned = merge("magnitude_prune", LAYOUT, base + steps, WEIGHTS, Dials(density=0.1), base)
    moved = ((pruned - base).abs() > 1e-6).float().mean()
    assert 0.1 < float(moved) < 0.31
    without = merge("svd", LAYOUT, base + steps, WEIGHTS, Dials())
    assert torch.equal(merge("svd", LAYOUT, base + steps, WEIGHTS, Dials(), base), without)


@pytest.mark.parametrize("composition", MERGES)
def test_rows_as_they_are_stored(composition: Composition) -> None:
    """Rows in bfloat16 are merged in float32, and rows that are given stay as they were."""
    rows = random_rows().bfloat16()
    before = rows.clone()
    found = merge(composition, LAYOUT, rows, WEIGHTS, Dials())
    assert found.dtype == torch.float32
    assert torch.equal(found, merge(composition, LAYOUT, rows.float(), WEIGHTS, Dials()))
    assert torch.equal(rows, before)


def test_what_is_no_merge_is_refused() -> None:
    """Another composition, no rows, rows of another layout, and weights that don't fit."""
    rows = random_rows(2)
    for composition, given, weights in (
        ("cat", rows, [1.0, 1.0]),
        ("linear", rows[:0], []),
        ("linear", rows[:, 1:], [1.0, 1.0]),
        ("linear", rows, [1.0]),
        ("linear", rows, [1.0, float("nan")]),
    ):
        with pytest.raises(InvalidInput):
            merge(composition, LAYOUT, given, weights, Dials())
