"""The base model with resident deltas: mixtures become factors the model acts with.

Every question of a batch has its own mixture, also none. Where all rows share one, it may be folded
into copies of the weights instead (``fold``), when that is expected to cost less (``costs``). The
base weights are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from adapterdb.adapted_model import AdaptedModel, Factors, Watch
from adapterdb.answers import GATES, Mixture
from adapterdb.base_model import BaseModel
from adapterdb.engine.costs import Chooser, Costs, How, Work, measure
from adapterdb.engine.fold import Fold
from adapterdb.engine.mixing import Mixing
from adapterdb.engine.model_lock import ModelLock
from adapterdb.engine.registered import Registered
from adapterdb.engine.slots import Loader, SlotPool
from adapterdb.engine.workspace import Workspace
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.kernels import TokenGate
from adapterdb.layout import DeltaLayout
from adapterdb.training.gate.bank import GateBank
from adapterdb.training.start import Start

SPARE = 4  # workspaces kept for requests of the same shape
SPARE_BYTES = 64 * 2**20  # of one: to fill a larger one costs far more than to make it


class Acted(NamedTuple):
    """How the last request acted.

    Attributes:
        how: ``base``, ``slots`` or ``fold``.
        costs: what folding and slots were expected to cost; None where it was not asked.
    """

    how: How
    costs: Costs | None = None


class _Ready(NamedTuple):
    """A request's factors, by mixture or one for all rows, and gates if it has any."""

    factors: Factors
    gates: list[TokenGate] | None


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
        gate: gives the learned gate of composition ``gate``, None where none has been trained.

    Attributes:
        acted: how the last request acted.
        chooser: decides between slots and folding.
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
        gate: Callable[[], GateBank | None] | None = None,
    ) -> None:
        self.base = base
        self.layout = layout
        self.adapted = AdaptedModel(base.model, layout)
        self.lock = ModelLock()
        self.pool = SlotPool(slots, layout.size, dtype, base.device, load)
        self.chooser = Chooser()
        self.acted = Acted("base")
        self._spare: dict[tuple[int, int, torch.dtype], Workspace] = {}
        self._own = start.fingerprint
        self._find_start = starts
        self._find_gate = gate
        self._starts = {self._own: _on(start, base.device)}

    @contextmanager
    def acting(
        self,
        mixtures: Sequence[Mixture],
        registered: Mapping[str, Registered],
        *,
        work: Work | None = None,
        how: How | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Any]:
        """The transformers model acting, in batch row i, with ``mixtures[i]``.

        Args:
            mixtures: one for each row of the batch; an empty one leaves its row to the base.
            registered: kind and place of every delta named in them.
            work: what is going to be asked of the model; without it nothing is folded.
            how: ``slots`` or ``fold`` whatever they cost; None chooses.
            watch: see ``AdaptedModel.using``; called where a gate decides.

        Raises:
            InvalidInput: for a composition that these deltas or this home don't have, or ``fold``
                for mixtures that differ or are gated.
        """
        wanted = {i: registered[i].row for mixture in mixtures for i, _ in mixture.parts}
        with self.lock, ExitStack() as after:
            slot_of = after.enter_context(self.pool.resident(wanted))
            if not wanted:
                self.acted = Acted("base")
                with self.adapted.using(None) as model:
                    yield model
                return
            one = _one_for_all(mixtures)
            ready = self._ready([mixtures[0]] if one else mixtures, registered, slot_of, after)
            chosen = self._how(ready, one and ready.gates is None, work, how)
            self.acted = Acted(chosen, self.chooser.costs)
            with self._using(ready, chosen, watch) as model:
                yield model

    def check(self, delta_id: str, known: Registered) -> bool:
        """Make a delta and its start resident; may run beside a request.

        Returns:
            Whether it had to be read.

        Raises:
            Corrupt, NotFound: if they can't be used.
            Locked: if running requests leave no slot.
        """
        read = self.pool.prefetch({delta_id: known.row})
        if known.kind == "gradient":
            self._start(known.start)
        return read > 0

    def drop(self) -> None:
        """Let no delta stay in memory: neither in slots nor gathered from them."""
        with self.lock:
            self.pool.forget(self.pool.resident_ids)
            for space in self._spare.values():
                space.clear()
            self._spare = {}  # a request around this one gives its workspace back to the old one

    def _gate(self) -> GateBank | None:
        return None if self._find_gate is None else self._find_gate()

    def _start(self, fingerprint: str) -> Start:
        """The start gradients name so, on the device."""
        name = fingerprint or self._own
        if name not in self._starts:
            if self._find_start is None:
                raise NotFound(f"there is no start with the fingerprint {name[:12]}")
            self._starts[name] = _on(self._find_start(name), self.base.device)
        return self._starts[name]

    def _ready(
        self,
        mixtures: Sequence[Mixture],
        registered: Mapping[str, Registered],
        slot_of: Mapping[str, int],
        after: ExitStack,
    ) -> _Ready:
        """``a (B, K*R, H1)``, ``b (B, K*R, H2)`` for each site, gathered once for the request."""
        mixing = Mixing(self.layout, self.pool.rows, slot_of, registered, self._start, self._own)
        for mixture in mixtures:
            mixing.add(mixture)
        learned = None
        if any(mixture.composition == "gate" for mixture in mixtures):
            learned = self._gate()
            if learned is None:
                raise InvalidInput(
                    "composition 'gate' needs a trained gate, and there is none",
                    code="no_gate",
                    hint="train one with 'adb train gate QUESTIONS', or use 'arrow'",
                )
        rows, slots, weights = mixing.table()
        space = self._workspace((slots.shape[0], slots.shape[1]), rows.dtype, after)
        factors = space.fill(rows, slots, weights * self.layout.scale, through_b=mixing.gated)
        return _Ready(factors, mixing.gates(learned) if mixing.gated else None)

    def _how(self, ready: _Ready, can_fold: bool, work: Work | None, how: How | None) -> How:
        if how == "fold" and not can_fold:
            raise InvalidInput("only one ungated mixture for all questions can be folded")
        if how is not None:
            return how
        # bfloat16 weights would swallow most of a small change
        if not can_fold or self.base.dtype != torch.float32:
            return "slots"
        return self.chooser.choose(work, lambda: self._measured(ready))

    def _measured(self, ready: _Ready) -> Costs:
        return measure(
            lambda: self.adapted.using(None),
            lambda: self._using(ready, "slots", None),
            lambda: self._using(ready, "fold", None),
            self.base.device,
        )

    @contextmanager
    def _using(self, ready: _Ready, how: How, watch: Watch | None) -> Iterator[Any]:
        if how == "fold":
            fold = Fold(self.base.model, self.layout, ready.factors)
            with self.lock.folding(fold), self.adapted.using(None) as model:
                yield model
        else:
            with self.adapted.using(ready.factors, gates=ready.gates, watch=watch) as model:
                yield model

    def _workspace(
        self, shape: tuple[int, int], stored: torch.dtype, after: ExitStack
    ) -> Workspace:
        """A spare workspace or a new one; it is spare again when the request is over."""
        key, spare = (*shape, stored), self._spare
        space = spare.pop(key, None)
        if space is None:
            base = self.base
            with torch.inference_mode(False):  # to be filled again outside of the caller's, too
                space = Workspace(self.layout, shape, stored, base.dtype, base.device)
        after.callback(_keep, spare, key, space)
        return space


def _keep(
    spare: dict[tuple[int, int, torch.dtype], Workspace],
    key: tuple[int, int, torch.dtype],
    space: Workspace,
) -> None:
    if space.size_bytes > SPARE_BYTES:
        return
    spare[key] = space
    if len(spare) > SPARE:
        spare.pop(next(iter(spare)))


def _one_for_all(mixtures: Sequence[Mixture]) -> bool:
    """Whether every row acts with the same mixture, so that one set of factors serves them all."""
    first = mixtures[0]
    # a gate's choices are told apart by batch row
    return first.composition not in GATES and all(mixture == first for mixture in mixtures)


def _on(start: Start, device: torch.device) -> Start:
    return Start(start.theta.to(device), start.alpha.to(device))
