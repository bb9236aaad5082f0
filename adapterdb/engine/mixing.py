"""Mixtures over resident rows to what a batch acts with: rows, weights, and gates.

    sums    LoRA parts as they are: sum_i w_i scale B_i A_i, exact; gradient parts of one start as
            one row theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734), those of several
            starts one row each, acting with their share of the weights
    merges  one row made by ``merge`` from the factors of all parts
    gates   every part by itself, a gradient as the factors it acts with alone

Rows that had to be computed come after those of the bank. Loads nothing and runs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb import prototype
from adapterdb.answers import GATES, MERGES, Mixture
from adapterdb.engine.merge import merge
from adapterdb.engine.registered import Registered
from adapterdb.errors import InvalidInput
from adapterdb.kernels import TokenGate
from adapterdb.layout import DeltaLayout
from adapterdb.training.gate.bank import GateBank, site_slices
from adapterdb.training.start import Start

ARROW_TOP_K = 2


class Part(NamedTuple):
    """A row that acts, its weight, and in a gated mixture the delta whose gate decides."""

    row: int
    weight: float
    delta: str = ""


class _Steps(NamedTuple):
    """Gradient parts of one start: slots and weights, and the start's share of all weights."""

    start: str
    parts: list[tuple[int, float]]
    share: float


class Mixing:
    """The mixtures of one batch over a bank of resident rows.

    Args:
        layout: of the rows.
        bank: ``(S, P)``, any float dtype.
        slot_of: delta id to its row of the bank.
        registered: kind and start of every delta in the mixtures.
        start_of: fingerprint to start, on the bank's device.
        own: fingerprint of the start that gradients are stepped from which name none.

    Attributes:
        parts: for each mixture added, its parts; rows from S on are those of ``composed``.
        composed: rows ``(P,)`` float32 that had to be computed.
    """

    def __init__(
        self,
        layout: DeltaLayout,
        bank: Tensor,
        slot_of: Mapping[str, int],
        registered: Mapping[str, Registered],
        start_of: Callable[[str], Start],
        own: str,
    ) -> None:
        self.layout, self.bank, self.slot_of = layout, bank, slot_of
        self._registered, self._start_of, self._own = registered, start_of, own
        self.mixtures: list[Mixture] = []
        self.parts: list[list[Part]] = []
        self.composed: list[Tensor] = []

    def add(self, mixture: Mixture) -> None:
        """Take the mixture of the next row of the batch.

        Raises:
            InvalidInput: for ``gradient`` where a part is no gradient delta.
        """
        self.mixtures.append(mixture)
        if mixture.composition in GATES:
            self.parts.append([self._alone(i, w) for i, w in mixture.parts])
        elif mixture.composition in MERGES and mixture.parts:
            self.parts.append([self._composed(self._merged(mixture), 1.0)])
        else:
            self.parts.append(self._sum(mixture))

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """What every row of the batch gathers from: rows, their numbers, their weights.

        Returns:
            Rows ``(S', P)``: the bank itself, or, where rows had to be computed, those in use as
            float32; numbers int64 ``(B, K)`` and weights float32 ``(B, K)``, 0 where a mixture has
            fewer than K parts.
        """
        width = max(len(parts) for parts in self.parts)
        # one of those in use: any other may be half read, and 0 times NaN is not 0
        filler = Part(next((part.row for parts in self.parts for part in parts), 0), 0.0)
        padded = [p + [filler] * (width - len(p)) for p in self.parts]
        numbers = torch.tensor([[part.row for part in mine] for mine in padded])
        weights = torch.tensor([[part.weight for part in mine] for mine in padded])
        device = self.bank.device
        if not self.composed:
            return self.bank, numbers.to(device), weights.to(device)
        size = len(self.bank)
        used, numbers = torch.unique(
            numbers, return_inverse=True
        )  # sorted: those of the bank first
        ours = [self.composed[int(i) - size] for i in used if i >= size]
        stored = self.bank[used[used < size].to(device)].float()
        return torch.cat([stored, torch.stack(ours)]), numbers.to(device), weights.to(device)

    @property
    def gated(self) -> bool:
        """Whether a gate weighs the parts of some mixture token by token."""
        return any(mixture.composition in GATES and mixture.parts for mixture in self.mixtures)

    def gates(self, learned: GateBank | None) -> list[TokenGate]:
        """The gate of every site, for rows of as many parts as the longest mixture has.

        Args:
            learned: for composition ``gate``; deltas it does not know go by their prototypes.
        """
        layout, device = self.layout, self.bank.device
        shape = (len(self.parts), max(len(parts) for parts in self.parts))
        live = torch.zeros(shape, dtype=torch.bool, device=device)
        known = torch.zeros_like(live)
        cores = torch.zeros(*shape, len(layout.sites), layout.rank, device=device)
        offset = torch.zeros(*shape, len(layout.sites), device=device)
        width = sum(site.in_features for site in layout.sites)
        use = learned if any(m.composition == "gate" for m in self.mixtures) else None
        if use is not None:
            use.check_layout(layout)
        vectors = None if use is None else torch.zeros(*shape, width, device=device)
        for b, (mixture, parts) in enumerate(zip(self.mixtures, self.parts, strict=True)):
            live[b, : len(parts)] = True
            if mixture.composition not in GATES:
                continue
            mine = use if mixture.composition == "gate" else None
            for k, part in enumerate(parts):
                found = None if mine is None else mine.index(part.delta)
                if mine is not None and vectors is not None and found is not None:
                    known[b, k], vectors[b, k] = True, mine.vectors[found].to(device)
                    continue
                core = self._cores(part)
                if mine is not None:
                    core, offset[b, k] = mine.unseen(core)
                cores[b, k] = core
        fixed = torch.tensor([m.composition not in GATES for m in self.mixtures], device=device)
        dials = [_dials(m, use) for m in self.mixtures]
        top_k = torch.tensor([count for count, _ in dials], device=device)
        warm = torch.tensor([warmth for _, warmth in dials], device=device)
        slices = site_slices(layout)
        return [
            TokenGate(
                live, fixed, top_k, warm, cores[:, :, i],
                None if vectors is None else vectors[:, :, slices[i]],
                None if vectors is None else known,
                None if vectors is None else offset[:, :, i],
            )
            for i in range(len(layout.sites))
        ]  # fmt: skip

    def factors_of(self, delta_id: str) -> Tensor:
        """The factors ``(P,)`` float32 a delta acts with alone."""
        row = self.bank[self.slot_of[delta_id]].float()
        start = self._start(delta_id)
        return self._start_of(start).step(row) if start else row

    def _start(self, delta_id: str) -> str:
        """Fingerprint of the start a gradient is stepped from; empty for factors."""
        known = self._registered[delta_id]
        return (known.start or self._own) if known.kind == "gradient" else ""

    def _alone(self, delta_id: str, weight: float) -> Part:
        if not self._start(delta_id):
            return Part(self.slot_of[delta_id], weight, delta_id)
        return self._composed(self.factors_of(delta_id), weight, delta_id)

    def _composed(self, row: Tensor, weight: float, delta_id: str = "") -> Part:
        self.composed.append(row)
        return Part(len(self.bank) + len(self.composed) - 1, weight, delta_id)

    def _cores(self, part: Part) -> Tensor:
        """``(sites, R)`` of the delta of a gated part."""
        data = self._registered[part.delta].prototype
        if data:
            return prototype.from_bytes(self.layout, data).to(self.bank.device)
        return prototype.cores(self.layout, self.factors_of(part.delta)[None])[0]

    def _merged(self, mixture: Mixture) -> Tensor:
        names = [delta_id for delta_id, _ in mixture.parts]
        rows = torch.stack([self.factors_of(name) for name in names])
        weights = torch.tensor([weight for _, weight in mixture.parts], device=rows.device)
        starts = {self._start(name) for name in names}
        base = self._start_of(*starts).theta if len(starts) == 1 and all(starts) else None
        return merge(mixture.composition, self.layout, rows, weights, mixture.dials, base)

    def _sum(self, mixture: Mixture) -> list[Part]:
        """LoRA parts as they are, gradient parts as one row for each start."""
        parts: list[Part] = []
        groups: dict[str, list[tuple[int, float]]] = {}
        for delta_id, weight in mixture.parts:
            start = self._start(delta_id)
            if start:
                groups.setdefault(start, []).append((self.slot_of[delta_id], weight))
                continue
            if mixture.composition == "gradient":
                raise InvalidInput(
                    f"composition 'gradient' sums gradients; delta {delta_id} is none",
                    hint="use composition 'cat', or make deltas with recipe 'gradient'",
                )
            parts.append(Part(self.slot_of[delta_id], weight))
        return parts + [self._composed(self._step(s), s.share) for s in _shares(groups)]

    def _step(self, steps: _Steps) -> Tensor:
        """theta* - alpha * sum_i (w_i / share) g_i as a row ``(P,)`` float32."""
        device = self.bank.device
        slots = torch.tensor([slot for slot, _ in steps.parts], device=device)
        weights = torch.tensor([weight / steps.share for _, weight in steps.parts], device=device)
        return self._start_of(steps.start).step(weights @ self.bank[slots].float())


def _shares(groups: Mapping[str, list[tuple[int, float]]]) -> list[_Steps]:
    """The gradient parts of a mixture, those of each start together.

    The row theta_s - alpha_s * sum_i (w_i / share_s) g_i, acting with share_s, steps by the weights
    as they are, while the starts sum to one, as a single start does. Where all weights of several
    starts are 0, the starts share equally.
    """
    if len(groups) == 1:
        return [_Steps(start, parts, 1.0) for start, parts in groups.items()]
    sizes = {start: sum(abs(w) for _, w in parts) for start, parts in groups.items()}
    if not any(sizes.values()):
        sizes = dict.fromkeys(sizes, 1.0)
    total = sum(sizes.values())
    return [_Steps(s, parts, sizes[s] / total) for s, parts in groups.items() if sizes[s]]


def _dials(mixture: Mixture, learned: GateBank | None) -> tuple[int, float]:
    """Top-k and temperature: as the mixture says, else as its gate was trained."""
    use = learned if mixture.composition == "gate" else None
    top_k, warm = (ARROW_TOP_K, 1.0) if use is None else (use.top_k, use.temperature)
    dials = mixture.dials
    return dials.top_k or top_k, warm if dials.gate_temperature is None else dials.gate_temperature
