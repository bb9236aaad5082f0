"""JSON Lines that grow: whole lines only, durable before the call returns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterdb.errors import InvalidInput

TAIL_BYTES = 2**16


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, and wait until they are on the disk; a torn line is cut first."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    cut_torn_line(path)
    with path.open("ab") as file:
        file.write(data.encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())


def replace_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Give the file these lines instead of its own, all or none."""
    other = path.with_name(path.name + ".new")
    other.unlink(missing_ok=True)
    append_lines(other, rows)
    other.replace(path)


def cut_torn_line(path: Path) -> None:
    """Take away what follows the last newline: half a line of a process that was killed."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - TAIL_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a last line without newline is left out.

    Raises:
        InvalidInput: naming the line that is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InvalidInput(f"{path} line {number} is no JSON object")
            yield row
