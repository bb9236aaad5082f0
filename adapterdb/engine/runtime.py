"""The base model with resident deltas: mixtures become factors the model acts with.

    LoRA parts      rank concatenation: sum_i w_i scale B_i A_i, exact (PRAG's cat with weights)
    gradient parts  one row theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734)

Every question of a batch has its own mixture, also none. The base weights are never written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel, Factors
from adapterdb.base_model import BaseModel
from adapterdb.engine.slots import Loader, SlotPool
from adapterdb.engine.workspace import Workspace
from adapterdb.layout import DeltaLayout
from adapterdb.records import DeltaKind, Mixture
from adapterdb.store.rows import RowRef
from adapterdb.training.start import Start

SPARE = 4  # workspaces kept for requests of the same shape


class Registered(NamedTuple):
    """What it takes to make a stored delta resident: its kind, and where its row lies."""

    kind: DeltaKind
    row: RowRef


class Runtime:
    """One base model serving mixtures; ``lock`` is held by whoever runs the model.

    Args:
        base: the loaded base model.
        layout: of the rows.
        start: theta* and alpha, for gradient deltas.
        slots: S of the pool.
        dtype: of the stored rows.
        load: reads one row from the store into a slot.
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
        self._spare: dict[tuple[int, int, torch.dtype], Workspace] = {}
        self._theta = start.theta.to(base.device)
        self._alpha = start.alpha.to(base.device)

    @contextmanager
    def acting(
        self, mixtures: Sequence[Mixture], registered: Mapping[str, Registered]
    ) -> Iterator[Any]:
        """The transformers model acting, in batch row i, with ``mixtures[i]``.

        Args:
            mixtures: one for each row of the batch; an empty one leaves its row to the base.
            registered: kind and place of every delta named in them.
        """
        wanted = {i: registered[i].row for mixture in mixtures for i, _ in mixture.parts}
        with self.lock, self.pool.resident(wanted) as slot_of, ExitStack() as after:
            factors = None
            if wanted:
                factors = self._factors(mixtures, registered, slot_of, after)
            with self.adapted.using(factors) as model:
                yield model

    def _factors(
        self,
        mixtures: Sequence[Mixture],
        registered: Mapping[str, Registered],
        slot_of: Mapping[str, int],
        after: ExitStack,
    ) -> Factors:
        """``a (B, K*R, H1)``, ``b (B, K*R, H2)`` for each site, gathered once for the request."""
        bank = self.pool.rows
        parts: list[list[tuple[int, float]]] = []
        composed: list[Tensor] = []
        for mixture in mixtures:
            mine = [(slot_of[i], w) for i, w in mixture.parts if registered[i].kind != "gradient"]
            steps = [(slot_of[i], w) for i, w in mixture.parts if registered[i].kind == "gradient"]
            if steps:
                mine.append((len(bank) + len(composed), 1.0))
                composed.append(self._step(steps))
            parts.append(mine)
        if composed:
            bank = torch.cat([bank.float(), torch.stack(composed)])
        width = max(len(mine) for mine in parts)
        padded = [mine + [(0, 0.0)] * (width - len(mine)) for mine in parts]
        slots = torch.tensor([[slot for slot, _ in mine] for mine in padded], device=bank.device)
        gain = torch.tensor([[w for _, w in mine] for mine in padded], device=bank.device)
        space = self._workspace((len(parts), width), bank.dtype, after)
        return space.fill(bank, slots, gain * self.layout.scale)

    def _workspace(
        self, shape: tuple[int, int], stored: torch.dtype, after: ExitStack
    ) -> Workspace:
        """A spare workspace or a new one; it is spare again when the request is over."""
        key = (*shape, stored)
        space = self._spare.pop(key, None)
        if space is None:
            base = self.base
            space = Workspace(self.layout, shape, stored, base.dtype, base.device)
        after.callback(self._keep, key, space)
        return space

    def _keep(self, key: tuple[int, int, torch.dtype], space: Workspace) -> None:
        self._spare[key] = space
        if len(self._spare) > SPARE:
            self._spare.pop(next(iter(self._spare)))

    def _step(self, steps: Sequence[tuple[int, float]]) -> Tensor:
        """theta* - alpha * sum_i w_i g_i as a row ``(P,)`` float32."""
        slots = torch.tensor([slot for slot, _ in steps], device=self.pool.rows.device)
        weights = torch.tensor([weight for _, weight in steps], device=self.pool.rows.device)
        return self._theta - self._alpha * (weights @ self.pool.rows[slots].float())
