"""What it takes to act with a stored delta. Registered deltas are many; resident ones are few."""

from __future__ import annotations

from typing import NamedTuple

from adapterdb.records import DeltaKind
from adapterdb.store.rows import RowRef


class Registered(NamedTuple):
    """A stored delta, as the runtime needs to know it.

    Attributes:
        kind: whether its row is factors or a gradient.
        row: where it lies.
        start: fingerprint of the start a gradient is stepped from; empty: the home's own.
        prototype: its cores (``prototype.to_bytes``); empty: to be computed when they are needed.
    """

    kind: DeltaKind
    row: RowRef
    start: str = ""
    prototype: bytes = b""
