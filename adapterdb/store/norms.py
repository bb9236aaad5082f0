"""How strongly the deltas of a namespace usually act: the yardstick by which odd ones are capped.

The norm of a gradient is that of its row, the norm of LoRA factors that of the weight change they
make; the two are never compared. The median of either is looked up when it is first needed, and
again after a tenth as many changes as it stands for. It is rounded, so that one document more or
less hardly ever changes how the others act.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

from sqlalchemy import func, select

from adapterdb.records import DeltaKind
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import ClockTable, DeltaTable, DocumentTable, PassageTable

FEWEST = 3  # of two nobody can say which is the odd one
STEPS = 8  # to which a norm is rounded, between 1 and 2, between 2 and 4 and so on
STALE = 10  # the median of n deltas stands for n / STALE changes


class _Known(NamedTuple):
    typical: float | None
    until: int


class Norms:
    """Typical norms in one store. Safe for use by several threads."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._known: dict[tuple[str, bool], _Known] = {}
        self._lock = threading.Lock()

    def typical(self, namespace: str, kind: DeltaKind) -> float | None:
        """The median norm of the active deltas that act as ``kind`` does; None of fewer than 3.

        Deltas of norm 0 don't count: they are dead, or were stored before their norm was known.
        """
        key = (namespace, kind == "gradient")
        with self._lock:
            with self._sessions.reading() as session:
                now = session.scalar(select(func.max(ClockTable.seq))) or 0
            known = self._known.get(key)
            if known is None or now > known.until:
                count, median = self._median(*key)
                known = _Known(_rounded(median) if count >= FEWEST else None, now + count // STALE)
                self._known[key] = known
            return known.typical

    def _median(self, namespace: str, gradient: bool) -> tuple[int, float]:
        """How many there are, and the lower of the two in the middle."""
        chosen = (
            select(DeltaTable.norm)
            .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
            .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
            .where(
                DocumentTable.namespace == namespace,
                DocumentTable.state == "active",
                (DeltaTable.kind == "gradient") if gradient else (DeltaTable.kind != "gradient"),
                DeltaTable.norm > 0,
            )
        )
        with self._sessions.reading() as session:
            count = session.scalar(chosen.with_only_columns(func.count())) or 0
            middle = chosen.order_by(DeltaTable.norm).offset(max(0, count - 1) // 2).limit(1)
            return count, session.scalar(middle) or 0.0


def _rounded(norm: float) -> float:
    return math.exp2(round(STEPS * math.log2(norm)) / STEPS)
