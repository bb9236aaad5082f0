"""Prototypes of deltas as the catalog keeps them: the bytes of their cores behind a CRC-32.

A prototype follows from its delta's row, so one that is damaged is as good as none: whoever needs
it computes it again. What the bytes mean is in ``adapterdb.prototype``.
"""

from __future__ import annotations

import zlib

from adapterdb.layout import DeltaLayout

CRC_BYTES = 4


def size_bytes(layout: DeltaLayout) -> int:
    """Bytes of the cores ``(sites, R)`` float32 of one delta."""
    return 4 * len(layout.sites) * layout.rank


def sealed(prototype: bytes) -> bytes | None:
    """What the column holds; None for a delta without one."""
    return zlib.crc32(prototype).to_bytes(CRC_BYTES, "little") + prototype if prototype else None


def unsealed(column: bytes | None, size: int | None = None) -> bytes:
    """The prototype in the column; empty if there is none, or not what was stored.

    Args:
        size: bytes it must have; None: any number.
    """
    crc, prototype = (column or b"")[:CRC_BYTES], (column or b"")[CRC_BYTES:]
    intact = prototype and zlib.crc32(prototype).to_bytes(CRC_BYTES, "little") == crc
    return prototype if intact and size in (None, len(prototype)) else b""
