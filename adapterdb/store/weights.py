"""Delta rows on disk: immutable files, one for each ingest batch, read one row at a time.

    weights/ab/<sha256 of the file>.safetensors      one tensor ``rows (n, P)``, and header fields
    weights/staging/                                 files not yet whole

A file exists under its final name only when it is whole and synced. What is in it is named by the
catalog: a file that nothing names is an orphan, not an error. safetensors notices truncation but
not flipped bits, so the sha256 of each row is checked when a process first reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt
from adapterdb.store.failures import storage_failures
from adapterdb.store.rows import RowRef

if TYPE_CHECKING:  # torch takes seconds to import, and listing documents needs none
    import torch
    from torch import Tensor

OPEN_FILES = 64
MAX_HEADER_BYTES = 2**20
CODES: dict[DeltaDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
ITEM_BYTES: dict[DeltaDtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


class FileShape(NamedTuple):
    """What a row file says of itself: bytes in all, rows, numbers in a row, header fields."""

    size_bytes: int
    rows: int
    width: int
    data_offset: int
    fields: Mapping[str, str]


class Weights:
    """The weight files below ``folder``. Safe for use by several threads.

    Args:
        fields: written into every row file's header (layout fingerprint, store uuid).
        on_step: called at ``staged``, ``synced``, ``renamed``, ``durable``.
        claim: called with the name of a file before it is made.
    """

    def __init__(
        self,
        folder: Path,
        fields: Mapping[str, str],
        on_step: Callable[[str], None],
        claim: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder = folder
        self.fields = dict(fields)
        self._on_step = on_step
        self._claim = claim
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._verified: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """Where the file called ``name`` lies."""
        return self.folder / name[:2] / f"{name}.safetensors"

    def write_rows(self, rows: Tensor) -> list[RowRef]:
        """Write rows ``(n, P)``, bf16, fp16 or fp32, as one durable file.

        Raises:
            Corrupt: code ``non_finite`` or ``bad_size``; nothing is written.
            StorageFailed: the file system refused; nothing is left under the final name.
        """
        import torch

        rows = rows.detach().cpu().contiguous()
        dtype = _dtype_name(rows.dtype)
        if rows.dim() != 2 or not rows.shape[0] or not rows.shape[1]:
            raise Corrupt(f"delta rows have shape {tuple(rows.shape)}, not (n, P)", code="bad_size")
        finite = torch.isfinite(rows).all(dim=1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise Corrupt(f"delta row {bad} holds NaN or infinity", code="non_finite")
        name, data_offset = self._write({"rows": rows}, self.fields)
        width = rows.shape[1] * ITEM_BYTES[dtype]
        norms = rows.float().norm(dim=1).tolist()
        return [
            RowRef(
                file=name,
                offset=data_offset + i * width,
                size_bytes=width,
                dtype=dtype,
                sha256=hashlib.sha256(_bytes_of(rows[i])).hexdigest(),
                norm=norms[i],
            )
            for i in range(rows.shape[0])
        ]

    def read_row(self, ref: RowRef, out: Tensor | None = None) -> Tensor:
        """The row ``(P,)`` in its stored dtype, checked when first read.

        Args:
            ref: where it lies.
            out: contiguous CPU tensor ``(P,)`` of that dtype to read into; None makes a fresh one.
                What it holds after an error is not to be used.

        Raises:
            Corrupt: code ``lost_file``, ``bad_size``, ``sha_mismatch`` or ``non_finite``.
        """
        import torch

        size = ref.size_bytes // ITEM_BYTES[ref.dtype]
        row = torch.empty(size, dtype=getattr(torch, ref.dtype)) if out is None else out
        assert row.shape == (size,), "the slot has another size than the row"
        buffer = _bytes_of(row)
        file = self._open(ref.file)
        with storage_failures(f"weight file {ref.file}"):
            count = os.preadv(file.descriptor, [buffer], ref.offset)
        if count != ref.size_bytes:
            raise Corrupt(
                f"weight file {ref.file} is too short: {count} bytes at {ref.offset},"
                f" {ref.size_bytes} expected",
                code="bad_size",
            )
        if (ref.file, ref.offset) not in self._verified:
            _verify(ref, row, buffer)
            self._verified.add((ref.file, ref.offset))
        return row

    def verify_row(self, ref: RowRef) -> None:
        """Check a row against what is on disk now, even if it was read before; Corrupt."""
        self._verified.discard((ref.file, ref.offset))
        with self._lock:
            self._files.pop(ref.file, None)
        self.read_row(ref)

    def shape(self, name: str) -> FileShape:
        """What the row file under ``name`` says of itself; Corrupt if it is lost or not whole."""
        try:
            with storage_failures(f"weight file {name}"), self.path(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = int.from_bytes(file.read(8), "little")
                # a bloated header is refused before it is read
                text = file.read(head) if 0 < head <= MAX_HEADER_BYTES else b""
        except FileNotFoundError as error:
            raise _lost(name) from error
        try:
            header = json.loads(text)
            rows, width = header["rows"]["shape"]
            first, last = header["rows"]["data_offsets"]
            fields = dict(json.loads(header["__metadata__"]["adapterdb"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Corrupt(f"weight file {name} has no readable header", code="bad_size") from error
        if first != 0 or 8 + head + last != size:
            raise Corrupt(
                f"weight file {name} has {size} bytes, {8 + head + last} expected", code="bad_size"
            )
        return FileShape(size, int(rows), int(width), 8 + head, fields)

    def write_tensors(self, tensors: Mapping[str, Tensor]) -> str:
        """Write named tensors as one durable file and return its name, the sha256 of its bytes."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return self._write(whole, {**self.fields, "holds": "tensors"})[0]

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file by ``write_tensors``, its sha256 checked; Corrupt."""
        from safetensors.torch import load

        try:
            with storage_failures(f"weight file {name}"):
                data = self.path(name).read_bytes()
        except FileNotFoundError as error:
            raise _lost(name) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise Corrupt(f"weight file {name} does not match its sha256", code="sha_mismatch")
        return dict(load(data))

    def sha256(self, name: str) -> str:
        """The sha256 of the bytes now in the file ``name``; Corrupt if it is lost."""
        try:
            with storage_failures(f"weight file {name}"), self.path(name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise _lost(name) from error

    def names(self) -> set[str]:
        """The names of all files that are there."""
        return {path.stem for path in self.folder.glob("??/*.safetensors")}

    def staged(self) -> list[Path]:
        """Files that were begun and not finished, by a crash or by a process at work now."""
        return sorted((self.folder / "staging").glob("*"))

    def close(self) -> None:
        """Let go of all open files."""
        with self._lock:
            self._files.clear()

    def _write(self, tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> tuple[str, int]:
        """Name of the durable file with ``tensors``, and where its data begin."""
        from safetensors.torch import save

        # one header field: the library writes several in random order, and names follow from bytes
        metadata = {"adapterdb": json.dumps(dict(fields), sort_keys=True)}
        data = save(dict(tensors), metadata=metadata)
        name = hashlib.sha256(data).hexdigest()
        self._claim(name)
        final = self.path(name)
        staging = self.folder / "staging"
        temporary = staging / f"{name}.{uuid4().hex}"
        with storage_failures(f"weight file {final}"):
            staging.mkdir(exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    self._on_step("staged")
                    os.fsync(file.fileno())
                self._on_step("synced")
                final.parent.mkdir(exist_ok=True)
                temporary.rename(final)
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise
            self._on_step("renamed")
            for folder in (final.parent, self.folder):
                sync_folder(folder)
        self._on_step("durable")
        return name, 8 + int.from_bytes(data[:8], "little")

    def _open(self, name: str) -> _OpenFile:
        """The open file ``name``, kept for the next time."""
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                return file
            try:
                with storage_failures(f"weight file {name}"):
                    file = _OpenFile(os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError as error:
                raise _lost(name) from error
            self._files[name] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
            return file


class _OpenFile:
    """A descriptor that is closed when the last thread that reads from it lets go."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(ref: RowRef, row: Tensor, buffer: memoryview) -> None:
    """Corrupt unless the row is the one that was written and finite."""
    import torch

    if hashlib.sha256(buffer).hexdigest() != ref.sha256:
        raise Corrupt(
            f"the row at {ref.offset} of weight file {ref.file} does not match its sha256",
            code="sha_mismatch",
            hint="ingest the document again, or restore the file from a backup",
        )
    if not math.isfinite(ref.norm) or not bool(torch.isfinite(row).all()):
        raise Corrupt(
            f"the row at {ref.offset} of weight file {ref.file} holds NaN or infinity",
            code="non_finite",
        )


def _lost(name: str) -> Corrupt:
    return Corrupt(
        f"weight file {name} is missing",
        code="lost_file",
        hint="ingest its documents again, or restore the file from a backup",
    )


def _bytes_of(row: Tensor) -> memoryview:
    """The memory of a row, without a copy."""
    import torch

    array: Any = row.view(torch.uint8).numpy()
    return memoryview(array)


def _dtype_name(dtype: torch.dtype) -> DeltaDtype:
    for name in CODES:
        if str(dtype) == f"torch.{name}":
            return name
    raise Corrupt(f"delta rows are {dtype}; allowed are {', '.join(CODES)}", code="bad_size")
