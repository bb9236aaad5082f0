"""The base model with resident deltas: mixtures become factors the model acts with.

    LoRA parts      rank concatenation: sum_i w_i scale B_i A_i, exact (PRAG's cat with weights)
    gradient parts  one row theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734); for those of
                    several starts one row each, acting with their share of the weights

Every question of a batch has its own mixture, also none. The base weights are never written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel, Factors
from adapterdb.answers import Mixture
from adapterdb.base_model import BaseModel
from adapterdb.engine.slots import Loader, SlotPool
from adapterdb.engine.workspace import Workspace
from adapterdb.errors import NotFound
from adapterdb.layout import DeltaLayout
from adapterdb.records import DeltaKind
from adapterdb.store.rows import RowRef
from adapterdb.training.start import Start

SPARE = 4  # workspaces kept for requests of the same shape


class Registered(NamedTuple):
    """What it takes to act with a stored delta.

    Args:
        kind: whether its row is factors or a gradient.
        row: where it lies.
        start: fingerprint of the start a gradient is stepped from; empty: the home's own.
    """

    kind: DeltaKind
    row: RowRef
    start: str = ""


class _Steps(NamedTuple):
    """Gradient parts of one start: slots and weights, and the start's share of all weights."""

    start: str
    parts: list[tuple[int, float]]
    share: float


class Runtime:
    """One base model serving mixtures; ``lock`` is held by whoever runs the model.

    Args:
        base: the loaded base model.
        layout: of the rows.
        start: theta* and alpha, for gradient deltas that name no other.
        slots: S of the pool.
        dtype: of the stored rows.
        load: reads one row from the store into a slot.
        starts: fingerprint to start, for gradient deltas made at others; raises NotFound. None
            means there are no others.
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
        starts: Callable[[str], Start] | None = None,
    ) -> None:
        self.base = base
        self.layout = layout
        self.adapted = AdaptedModel(base.model, layout)
        self.lock = threading.RLock()
        self.pool = SlotPool(slots, layout.size, dtype, base.device, load)
        self._spare: dict[tuple[int, int, torch.dtype], Workspace] = {}
        self._own = start.fingerprint
        self._find_start = starts
        self._starts = {self._own: _on(start, base.device)}

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

    def check_start(self, fingerprint: str) -> None:
        """Make a start resident; NotFound if it is not there, Corrupt if it is damaged."""
        self._start(fingerprint)

    def _start(self, fingerprint: str) -> Start:
        """The start gradients name so, on the device."""
        name = fingerprint or self._own
        if name not in self._starts:
            if self._find_start is None:
                raise NotFound(f"there is no start with the fingerprint {name[:12]}")
            self._starts[name] = _on(self._find_start(name), self.base.device)
        return self._starts[name]

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
            for steps in self._by_start(mixture, registered, slot_of):
                mine.append((len(bank) + len(composed), steps.share))
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

    def _by_start(
        self,
        mixture: Mixture,
        registered: Mapping[str, Registered],
        slot_of: Mapping[str, int],
    ) -> list[_Steps]:
        """The gradient parts of a mixture, those of each start together.

        The row theta_s - alpha_s * sum_i (w_i / share_s) g_i, acting with share_s, steps by the
        weights as they are, while the starts sum to one, as a single start does. Where all
        weights of several starts are 0, the starts share equally.
        """
        groups: dict[str, list[tuple[int, float]]] = {}
        for delta_id, weight in mixture.parts:
            kind, _, start = registered[delta_id]
            if kind == "gradient":
                groups.setdefault(start or self._own, []).append((slot_of[delta_id], weight))
        if len(groups) == 1:
            return [_Steps(start, parts, 1.0) for start, parts in groups.items()]
        sizes = {start: sum(abs(w) for _, w in parts) for start, parts in groups.items()}
        if not any(sizes.values()):
            sizes = dict.fromkeys(sizes, 1.0)
        total = sum(sizes.values())
        return [_Steps(s, parts, sizes[s] / total) for s, parts in groups.items() if sizes[s]]

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

    def _step(self, steps: _Steps) -> Tensor:
        """theta* - alpha * sum_i (w_i / share) g_i as a row ``(P,)`` float32."""
        device = self.pool.rows.device
        slots = torch.tensor([slot for slot, _ in steps.parts], device=device)
        weights = torch.tensor([weight / steps.share for _, weight in steps.parts], device=device)
        return self._start(steps.start).step(weights @ self.pool.rows[slots].float())


def _on(start: Start, device: torch.device) -> Start:
    return Start(start.theta.to(device), start.alpha.to(device))
