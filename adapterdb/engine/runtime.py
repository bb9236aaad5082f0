"""The base model with resident deltas: mixtures become factors the model acts with.

    LoRA parts      rank concatenation: sum_i w_i scale B_i A_i, exact (PRAG's cat with weights)
    gradient parts  one row theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734)

Every question of a batch has its own mixture, also none. The base weights are never written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel, Factors
from adapterdb.base_model import BaseModel
from adapterdb.engine.slots import Loader, SlotPool
from adapterdb.kernels import gather_lora
from adapterdb.layout import DeltaLayout
from adapterdb.records import DeltaKind, Mixture
from adapterdb.training.start import Start


class Runtime:
    """One base model serving mixtures; ``lock`` is held by whoever runs the model.

    Args:
        base: the loaded base model.
        layout: of the rows.
        start: theta* and alpha, for gradient deltas.
        slots: S of the pool.
        dtype: of the stored rows.
        load: delta ids to rows, from the store.
    """

    def __init__(
        self,
        base: BaseModel,
        layout: DeltaLayout,
        start: Start,
        *,
        slots: int,
        dtype: torch.dtype,
        load: Loader,
    ) -> None:
        self.base = base
        self.layout = layout
        self.adapted = AdaptedModel(base.model, layout)
        self.lock = threading.RLock()
        self.pool = SlotPool(slots, layout.size, dtype, base.device, load)
        self._theta = start.theta.to(base.device)
        self._alpha = start.alpha.to(base.device)

    @contextmanager
    def acting(self, mixtures: Sequence[Mixture], kinds: Mapping[str, DeltaKind]) -> Iterator[Any]:
        """The transformers model acting, in batch row i, with ``mixtures[i]``.

        Args:
            mixtures: one for each row of the batch; an empty one leaves its row to the base.
            kinds: kind of every delta named in them.
        """
        ids = [delta_id for mixture in mixtures for delta_id, _ in mixture.parts]
        with self.lock, self.pool.resident(ids) as slot_of:
            factors = self._factors(mixtures, kinds, slot_of) if ids else None
            with self.adapted.using(factors) as model:
                yield model

    def _factors(
        self,
        mixtures: Sequence[Mixture],
        kinds: Mapping[str, DeltaKind],
        slot_of: Mapping[str, int],
    ) -> Factors:
        """``a (B, K*R, H1)``, ``b (B, K*R, H2)`` for each site, gathered once for the request."""
        bank = self.pool.rows
        parts: list[list[tuple[int, float]]] = []
        composed: list[Tensor] = []
        for mixture in mixtures:
            mine = [(slot_of[i], w) for i, w in mixture.parts if kinds[i] != "gradient"]
            steps = [(slot_of[i], w) for i, w in mixture.parts if kinds[i] == "gradient"]
            if steps:
                mine.append((len(bank) + len(composed), 1.0))
                composed.append(self._step(steps))
            parts.append(mine)
        if composed:
            bank = torch.cat([bank.float(), torch.stack(composed)])
        width = max(len(mine) for mine in parts)
        slots = torch.full((len(parts), width), -1, dtype=torch.int64)
        weights = torch.zeros(len(parts), width)
        for row, mine in enumerate(parts):
            for column, (slot, weight) in enumerate(mine):
                slots[row, column], weights[row, column] = slot, weight
        return self._gather(bank, slots.to(bank.device), weights.to(bank.device))

    def _gather(self, bank: Tensor, slots: Tensor, weights: Tensor) -> Factors:
        scale, number = self.layout.scale, self.base.dtype
        factors = []
        for a, b in self.layout.views(bank):
            a_rows, b_rows = gather_lora(a, b.float(), slots, weights, scale)
            factors.append((a_rows.to(number), b_rows.to(number)))
        return factors

    def _step(self, steps: Sequence[tuple[int, float]]) -> Tensor:
        """theta* - alpha * sum_i w_i g_i as a row ``(P,)`` float32."""
        slots = torch.tensor([slot for slot, _ in steps], device=self.pool.rows.device)
        weights = torch.tensor([weight for _, weight in steps], device=self.pool.rows.device)
        return self._theta - self._alpha * (weights @ self.pool.rows[slots].float())
