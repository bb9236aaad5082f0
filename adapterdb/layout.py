"""Where every LoRA factor sits in a delta row.

A delta is one contiguous row of P numbers. For a base model and a ``LoraSpec`` the ``DeltaLayout``
fixes the order: sites that read the same input (q/k/v, gate/up) lie side by side, first the A of
all of them, then each B, kept transposed so that a mixture of deltas is a list of rank rows.

    group g:  A_1 (R, H1) .. A_n (R, H1)  B_1 (R, H2_1) .. B_n (R, H2_n)      groups in model order

Knows no model and imports no torch: it slices whatever tensor or array it is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from adapterdb.errors import InvalidInput, Mismatch

if TYPE_CHECKING:
    from torch import Tensor

MAX_RANK = 1024


@dataclass(frozen=True)
class LoraSpec:
    """Which linears of a base model get LoRA factors, and of what rank.

    Args:
        rank: R, 1 to 1024.
        alpha: LoRA alpha; the factors act with ``alpha / rank``.
        targets: ``"mlp"``, ``"attn"``, ``"all"``, or endings of module names (``"q_proj"``).
        layers: ``"all"``, ``"upper-half"``, ``"upper-N"``, or ``"A-B"`` (both included, from 0).
    """

    rank: int = 2
    alpha: float = 32.0
    targets: tuple[str, ...] = ("mlp",)
    layers: str = "all"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise InvalidInput(f"LoRA rank {self.rank} is outside 1..{MAX_RANK}")
        if not 0 < self.alpha < float("inf"):
            raise InvalidInput(f"LoRA alpha {self.alpha} must be a positive finite number")
        if not self.targets:
            raise InvalidInput("LoRA targets are empty; name 'mlp', 'attn', 'all' or module names")
        self.layer_range(1)

    def layer_range(self, count: int) -> range:
        """The adapted layers of a model with ``count`` layers."""
        if self.layers == "all":
            return range(count)
        if self.layers == "upper-half":
            return range(count // 2, count)
        first, dash, last = self.layers.partition("-")
        if first == "upper" and last.isdigit() and int(last) > 0:
            return range(max(0, count - int(last)), count)
        if dash and first.isdigit() and last.isdigit() and int(first) <= int(last):
            return range(int(first), min(count, int(last) + 1))
        raise InvalidInput(
            f"LoRA layers {self.layers!r} is not understood",
            hint="use 'all', 'upper-half', 'upper-N' or 'A-B'",
        )


@dataclass(frozen=True)
class Site:
    """One adapted linear.

    Args:
        name: module path in the base model, e.g. ``model.layers.0.mlp.up_proj``.
        in_features: H1.
        out_features: H2.
        group: sites of the same group are neighbours and read the same input.
    """

    name: str
    in_features: int
    out_features: int
    group: int


@dataclass(frozen=True)
class Family:
    """Sites alike in every layer: the same module, the same shape, one distance apart.

    Args:
        indices: of the sites, in layout order.
        slices: how many of them are neighbours in one group (gate and up: 2).
        a_start, b_start: where the first one's A and B begin in the row.
        stride: numbers from one group to the next; 0 for a single one.
    """

    indices: tuple[int, ...]
    slices: int
    a_start: int
    b_start: int
    stride: int


@dataclass(frozen=True)
class DeltaLayout:
    """The order of all factors in a row of ``size`` numbers.

    Args:
        rank: R, the same at every site.
        alpha: LoRA alpha; ``scale`` = alpha / rank is applied when the factors act.
        sites: in row order, groups contiguous.
    """

    rank: int
    alpha: float
    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        if not self.sites:
            raise InvalidInput(
                "the layout has no sites: no module of the model matched the targets"
            )
        order = [key for key, _ in groupby(self.sites, key=lambda site: site.group)]
        if len(order) != len(set(order)):
            raise InvalidInput("sites of one group must be neighbours in the layout")

    @property
    def scale(self) -> float:
        """The factor alpha / rank with which B A acts."""
        return self.alpha / self.rank

    @cached_property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """For each site where its A and its B begin in the row."""
        found: list[tuple[int, int]] = []
        at = 0
        for _, members in groupby(self.sites, key=lambda site: site.group):
            group = list(members)
            a_at = [at + i * self.rank * group[0].in_features for i in range(len(group))]
            at += sum(self.rank * site.in_features for site in group)
            for site, a in zip(group, a_at, strict=True):
                found.append((a, at))
                at += self.rank * site.out_features
        return tuple(found)

    @cached_property
    def size(self) -> int:
        """P, how many numbers a row has."""
        return sum(self.rank * (site.in_features + site.out_features) for site in self.sites)

    def a(self, rows: Tensor, index: int) -> Tensor:
        """The A of site ``index``: a view ``(..., R, H1)`` into ``rows (..., P)``."""
        start = self.offsets[index][0]
        width = self.sites[index].in_features
        block = rows[..., start : start + self.rank * width]
        return block.view(*rows.shape[:-1], self.rank, width)

    def b(self, rows: Tensor, index: int) -> Tensor:
        """The transposed B of site ``index``: a view ``(..., R, H2)`` into ``rows (..., P)``."""
        start = self.offsets[index][1]
        width = self.sites[index].out_features
        block = rows[..., start : start + self.rank * width]
        return block.view(*rows.shape[:-1], self.rank, width)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Sites of equal shape that lie at equal distances, so that one view stacks them all."""
        units: list[list[int]] = []  # neighbours of one shape (gate and up), or single sites
        for _, members in groupby(range(len(self.sites)), key=lambda i: self.sites[i].group):
            group = list(members)
            alike = len({self.sites[i].out_features for i in group}) == 1
            units += [group] if alike else [[i] for i in group]
        found: dict[tuple[str, int, int], list[list[int]]] = {}
        for unit in units:
            site = self.sites[unit[0]]
            kind = ".".join("" if part.isdigit() else part for part in site.name.split("."))
            found.setdefault((kind, site.out_features, len(unit)), []).append(unit)
        return tuple(family for members in found.values() for family in self._families(members))

    def _families(self, units: list[list[int]]) -> list[Family]:
        """One family of all units if they are equally far apart, else one of each."""
        starts = [self.offsets[unit[0]] for unit in units]
        steps = {y[side] - x[side] for x, y in pairwise(starts) for side in (0, 1)}
        if len(steps) > 1:
            return [family for unit in units for family in self._families([unit])]
        indices = tuple(i for unit in units for i in unit)
        return [Family(indices, len(units[0]), *starts[0], steps.pop() if steps else 0)]

    def stacked(self, rows: Tensor, family: Family) -> tuple[Tensor, Tensor]:
        """All A and transposed B of a family, as views.

        Returns:
            ``(..., n, slices, R, H1)`` and ``(..., n, slices, R, H2)``; flattened over n and
            slices they are in the order of ``family.indices``.
        """
        site, n = self.sites[family.indices[0]], len(family.indices) // family.slices

        def view(start: int, width: int) -> Tensor:
            return rows.as_strided(
                (*rows.shape[:-1], n, family.slices, self.rank, width),
                (*rows.stride()[:-1], family.stride, self.rank * width, width, 1),
                rows.storage_offset() + start,
            )

        return view(family.a_start, site.in_features), view(family.b_start, site.out_features)

    def views(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(A, transposed B)`` of every site, in order, without a copy."""
        return [(self.a(rows, i), self.b(rows, i)) for i in range(len(self.sites))]

    def change_norms(self, rows: Tensor) -> Tensor:
        """How strongly factors act: the norm of the weight change of each of ``rows (n, P)``.

        Semantics: sqrt of the sum over sites of ``(scale * B @ A).square().sum()``, without making
        B A: that sum is the one over the R x R products ``(A A^T) * (B^T B)``.

        Returns:
            ``(n,)`` float64.
        """
        sites = ((a.double(), b.double()) for a, b in self.views(rows))
        squares = [((a @ a.mT) * (b @ b.mT)).sum((-2, -1)) for a, b in sites]
        return self.scale * sum(squares[1:], squares[0]).clamp(min=0).sqrt()

    def pack(self, factors: Mapping[str, tuple[Tensor, Tensor]], row: Tensor) -> Tensor:
        """Write factors into ``row`` in place and return it.

        Args:
            factors: site name to ``A (R, H1)`` and ``B (H2, R)``; exactly the layout's sites.
            row: ``(P,)``, any float dtype.

        Raises:
            Mismatch: if a site is missing, unknown or of another shape.
        """
        names = {site.name for site in self.sites}
        if set(factors) != names:
            missing, extra = sorted(names - set(factors)), sorted(set(factors) - names)
            raise Mismatch(
                f"factors don't fit the layout: missing {missing[:3]}, not expected {extra[:3]}",
                code="layout_mismatch",
            )
        for i, site in enumerate(self.sites):
            a, b = factors[site.name]
            want = (self.rank, site.in_features), (site.out_features, self.rank)
            if (tuple(a.shape), tuple(b.shape)) != want:
                raise Mismatch(
                    f"{site.name}: A {tuple(a.shape)} and B {tuple(b.shape)}, expected {want}",
                    code="layout_mismatch",
                )
            self.a(row, i).copy_(a)
            self.b(row, i).copy_(b.T)
        return row

    def unpack(self, row: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name to views ``A (R, H1)``, ``B (H2, R)`` of ``row (P,)``."""
        return {site.name: (self.a(row, i), self.b(row, i).mT) for i, site in enumerate(self.sites)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` reads."""
        sites = [[s.name, s.in_features, s.out_features, s.group] for s in self.sites]
        return {"rank": self.rank, "alpha": self.alpha, "sites": sites}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeltaLayout:
        """The layout that ``to_dict`` described."""
        sites = tuple(Site(str(n), int(i), int(o), int(g)) for n, i, o, g in data["sites"])
        return cls(int(data["rank"]), float(data["alpha"]), sites)

    @property
    def fingerprint(self) -> str:
        """sha256 of the layout; two rows can be mixed only if theirs is the same."""
        text = json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


MLP_ENDINGS = (
    ("gate_proj", "up_proj"),
    ("gate_up_proj",),
    ("down_proj",),
    ("mlp.c_fc",),
    ("mlp.c_proj",),
    ("intermediate.dense",),
    ("output.dense",),
    ("fc1",),
    ("fc2",),
    ("dense_h_to_4h",),
    ("dense_4h_to_h",),
)
ATTENTION_ENDINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("qkv_proj",),
    ("o_proj",),
    ("out_proj",),
    ("attn.c_attn",),
    ("attn.c_proj",),
    ("self.query", "self.key", "self.value"),
    ("attention.output.dense",),
    ("query_key_value",),
    ("attention.dense",),
    ("self_attention.dense",),
)


def plan_layout(spec: LoraSpec, linears: Sequence[tuple[str, int, int]]) -> DeltaLayout:
    """The layout of ``spec`` over a model's linears.

    Args:
        spec: targets, rank and layers.
        linears: ``(module path, H1, H2)`` of every linear of the model, in model order.

    Raises:
        InvalidInput: if a target matches no module; the message lists what there is.
    """
    layered = [(name, _layer_of(name), i, o) for name, i, o in linears]
    layered = [entry for entry in layered if entry[1] is not None]
    count = 1 + max((layer for _, layer, _, _ in layered if layer is not None), default=-1)
    chosen_layers = spec.layer_range(count)
    families = [family for target in spec.targets for family in _families(target)]
    sites: list[Site] = []
    taken: dict[tuple[str, tuple[str, ...]], int] = {}
    members: dict[int, list[Site]] = {}
    for name, layer, h1, h2 in layered:
        family = _family_of(name, families)
        if family is None or layer not in chosen_layers:
            continue
        ending = next(e for e in family if name.endswith(e))
        key = (name[: -len(ending)], family)
        group = taken.setdefault(key, len(taken))
        members.setdefault(group, []).append(Site(name, h1, h2, group))
    for group in sorted(members):
        sites += members[group]
    if not sites:
        endings = sorted({name.rsplit(".", 1)[-1] for name, *_ in linears})
        raise InvalidInput(
            f"no linear matches targets {list(spec.targets)} in layers {spec.layers!r}",
            hint=f"this model's linears end in {endings}",
        )
    return DeltaLayout(spec.rank, spec.alpha, tuple(sites))


def _layer_of(name: str) -> int | None:
    """The number in a module path that says its layer, or None outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _families(target: str) -> Iterable[tuple[str, ...]]:
    named = {"mlp": MLP_ENDINGS, "attn": ATTENTION_ENDINGS, "all": MLP_ENDINGS + ATTENTION_ENDINGS}
    return named.get(target, ((target,),))


def _family_of(name: str, families: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The family whose ending matches ``name`` longest, or None."""
    best: tuple[str, ...] | None = None
    longest = 0
    for family in families:
        for ending in family:
            if (name == ending or name.endswith("." + ending)) and len(ending) > longest:
                best, longest = family, len(ending)
    attention = any(name.endswith("." + e) for f in ATTENTION_ENDINGS for e in f)
    if best is not None and attention and best in MLP_ENDINGS:
        return None  # BERT's attention.output.dense also ends in output.dense
    return best
