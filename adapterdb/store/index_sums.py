"""Checksums of an index's files, for LanceDB has none: a flipped bit would change answers silently.

Files of a table never change once written. Whoever holds the namespace's lock sums the new ones
after each write; whoever opens the table compares, once in a process. A file that is not in the
list is too new for it, one that is gone was merged into another: neither is an error.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

SUMS_FILE = "sums.json"
FOLDERS = ("data", "_indices", "_versions", "_deletions")  # of what is only ever written once
BLOCK_BYTES = 2**20

Sums = dict[str, list[int]]  # path below the index: size in bytes, CRC-32


class IndexSums:
    """Records and compares the sums of indexes, remembering what this process has compared."""

    def __init__(self) -> None:
        self._good: set[tuple[Path, int, int]] = set()  # file, size, time of its last change

    def record(self, place: Path) -> None:
        """Sum the files of the index in ``place`` that are new; the lock must be held."""
        before = _read(place)
        sums: Sums = {}
        for path in _files(place):
            name = path.relative_to(place).as_posix()
            sums[name] = before.get(name) or [path.stat().st_size, _crc(path)]
        temporary = place / f"{SUMS_FILE}.new"
        temporary.write_text(json.dumps(sums))
        temporary.replace(place / SUMS_FILE)

    def compare(self, place: Path) -> None:
        """Raise ValueError if a file of the index in ``place`` is not the one that was written."""
        for name, (size, crc) in _read(place).items():
            path = place / name
            try:
                status = path.stat()
                known = path, status.st_size, status.st_mtime_ns
                if known in self._good:
                    continue
                if status.st_size != size or _crc(path) != crc:
                    raise ValueError(f"{name} is damaged")
            except FileNotFoundError:
                continue
            self._good.add(known)


def _read(place: Path) -> Sums:
    try:
        return dict(json.loads((place / SUMS_FILE).read_bytes()))
    except FileNotFoundError:
        return {}


def _files(place: Path) -> list[Path]:
    """The files of the tables in ``place`` that never change."""
    found = []
    for table in place.glob("*.lance"):
        for folder in FOLDERS:
            for path, _, names in os.walk(table / folder):
                found += [Path(path, name) for name in names if not name.endswith(".json")]
    return found


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
