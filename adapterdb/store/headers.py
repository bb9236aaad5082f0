"""The header of a row file: read with a bound, and believed only where it agrees with the file.

safetensors: 8 bytes that say how long the header is, the header as JSON, the numbers.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt
from adapterdb.store.encoding import ITEM_BYTES, numbers_in
from adapterdb.store.failures import storage_failures

MAX_HEADER_BYTES = 2**20
CODES: dict[str, DeltaDtype] = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "U8": "int8",  # bytes as ``encoding`` packs them
}


class FileShape(NamedTuple):
    """What a row file says of itself: bytes in all, rows, P of each, header fields."""

    size_bytes: int
    rows: int
    width: int
    data_offset: int
    fields: Mapping[str, str]


def open_file(path: Path) -> int:
    """A descriptor to read the weight file at ``path`` from.

    Raises:
        Corrupt: code ``lost_file``, if there is none, or a folder, pipe or device in its place.
        StorageFailed: the file system refused.
    """
    with storage_failures(f"weight file {path.stem}"):
        try:  # a pipe must not make us wait
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise lost_file(path.stem) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise lost_file(path.stem)
    return descriptor


def read_shape(path: Path) -> FileShape:
    """What the row file at ``path`` says of itself; Corrupt if it is lost or not whole."""
    name = path.stem
    with storage_failures(f"weight file {name}"), os.fdopen(open_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = int.from_bytes(file.read(8), "little")
        # a bloated header is refused before it is read
        text = file.read(head) if 0 < head <= min(MAX_HEADER_BYTES, size - 8) else b""
    try:
        header = json.loads(text)
        tensor = header["rows"]
        rows, width = (int(number) for number in tensor["shape"])
        first, last = (int(number) for number in tensor["data_offsets"])
        dtype = CODES[tensor["dtype"]]
        fields = dict(json.loads(header["__metadata__"]["adapterdb"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Corrupt(f"weight file {name} has no readable header", code="bad_size") from error
    each = width * ITEM_BYTES.get(dtype, 1)
    if len(header) != 2 or min(rows, width) < 1 or (first, last) != (0, rows * each):
        raise Corrupt(f"weight file {name} holds more or less than rows", code="bad_size")
    if 8 + head + last != size:
        raise Corrupt(
            f"weight file {name} has {size} bytes, {8 + head + last} expected", code="bad_size"
        )
    return FileShape(size, rows, numbers_in(dtype, each), 8 + head, fields)


def lost_file(name: str) -> Corrupt:
    """The error of a weight file that is not there."""
    return Corrupt(
        f"weight file {name} is missing",
        code="lost_file",
        hint="ingest its documents again, or restore the file from a backup",
    )
