"""Which files below a folder hold one of some bytes: a program of its own, standard library only.

``residue`` runs it as a child process, and must: a process that opens and closes a file of SQLite
loses every lock it has on that file (POSIX), and the catalog is open in ours.

    stdin   JSON: {"places": [path, ...], "needles": [base64, ...]}
    stdout  JSON: {"files": count, "size_bytes": bytes read, "found": [path, ...]}
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

BLOCK = 2**22


def search(places: list[Path], needles: list[bytes]) -> dict[str, object]:
    """Read every regular file at or below ``places`` and look for each needle."""
    count = size_bytes = 0
    found = []
    for place in places:
        for path in [place, *place.rglob("*")]:
            if path.is_file() and not path.is_symlink():
                size, held = _read(path, needles)
                count, size_bytes = count + 1, size_bytes + size
                found += [str(path)] if held else []
    return {"files": count, "size_bytes": size_bytes, "found": sorted(found)}


def _read(path: Path, needles: list[bytes]) -> tuple[int, bool]:
    """Bytes of a file, and whether it holds one of the needles; what is gone holds nothing."""
    overlap = max(map(len, needles), default=1) - 1
    size, tail, held = 0, b"", False
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                size += len(block)
                data = tail + block
                held = held or any(needle in data for needle in needles)
                tail = data[-overlap:] if overlap else b""
    except FileNotFoundError:
        pass
    return size, held


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    wanted = [base64.b64decode(needle) for needle in asked["needles"]]
    json.dump(search([Path(place) for place in asked["places"]], wanted), sys.stdout)
