"""Delta rows on disk: immutable files, one for each ingest batch, read one row at a time.

    weights/ab/<sha256 of the file>.safetensors      one tensor ``rows (n, P)``, and header fields;
                                                     for int8 the bytes of ``encoding`` instead
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
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.store.encoding import (
    ITEM_BYTES,
    dequantize,
    numbers_in,
    quantize,
    read_dtype,
)
from adapterdb.store.failures import storage_failures
from adapterdb.store.headers import FileShape, open_file, read_shape
from adapterdb.store.rows import RowRef

if TYPE_CHECKING:  # torch takes seconds to import, and listing documents needs none
    from torch import Tensor

OPEN_FILES = 1024  # kept open at most; fewer where the process may have few
MAX_OFFSET = 2**40


class Weights:
    """The weight files below ``folder``. Safe for use by several threads.

    Args:
        fields: written into every row file's header (layout fingerprint, store uuid).
        on_step: called at ``staged``, ``synced``, ``renamed``, ``durable``.
        claim: called with the name of a file, and how many rows it holds, before it is made.
        open_files: how many are kept open; None means a quarter of what the process may have,
            at most ``OPEN_FILES``.
    """

    def __init__(
        self,
        folder: Path,
        fields: Mapping[str, str],
        on_step: Callable[[str], None],
        claim: Callable[[str, int], None] = lambda name, rows: None,
        open_files: int | None = None,
    ) -> None:
        self.folder = folder
        self.fields = dict(fields)
        self._on_step = on_step
        self._claim = claim
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._most_files = _most_files() if open_files is None else open_files
        self._verified: dict[str, dict[int, str]] = {}  # file to offset to sha256
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """Where the file called ``name`` lies."""
        return self.folder / name[:2] / f"{name}.safetensors"

    def write_rows(self, rows: Tensor, dtype: DeltaDtype | None = None) -> list[RowRef]:
        """Write rows ``(n, P)`` as one durable file.

        A row of zeros is allowed and has norm 0.

        Args:
            rows: bf16, fp16 or fp32; for int8 any float dtype.
            dtype: as which they are stored; None means their own.

        Raises:
            Corrupt: code ``non_finite`` or ``bad_size``; nothing is written.
            StorageFailed: the file system refused. A file left under the final name is whole, but
                perhaps not durable, and named by nothing.
        """
        rows = rows.detach().cpu()
        if dtype == "int8" and rows.is_floating_point():
            rows = rows.float()
        elif str(rows.dtype) not in {f"torch.{name}" for name in ITEM_BYTES} or (
            dtype is not None and rows.dtype != read_dtype(dtype)
        ):
            allowed = dtype or ", ".join(ITEM_BYTES)
            raise Corrupt(f"delta rows are {rows.dtype}; allowed are {allowed}", code="bad_size")
        if rows.dim() != 2 or not rows.shape[0] or not rows.shape[1]:
            raise Corrupt(f"delta rows have shape {tuple(rows.shape)}, not (n, P)", code="bad_size")
        norms = [float(row.float().norm()) for row in rows]
        bad = next((i for i, norm in enumerate(norms) if not math.isfinite(norm)), None)
        if bad is not None:  # one number that is not finite makes the norm so too
            raise Corrupt(
                f"delta row {bad} holds NaN or infinity, or its norm is infinite", code="non_finite"
            )
        stored = quantize(rows) if dtype == "int8" else rows.contiguous()
        return self._write_stored(stored, norms)

    def copy_rows(self, refs: Sequence[RowRef]) -> list[RowRef]:
        """Write the stored bytes of rows, bit for bit, into one durable file of their own.

        The rows may lie in several files, but share dtype and size. All rows of one file in their
        order are that file: the same name comes back.

        Raises:
            Corrupt: a row is not what was written (codes of ``read_row``); nothing is written.
            StorageFailed: as for ``write_rows``.
        """
        import torch

        first = refs[0]
        if {(ref.dtype, ref.size_bytes) for ref in refs} != {(first.dtype, first.size_bytes)}:
            raise InvalidInput("rows of several dtypes or sizes can't be copied into one file")
        stored = torch.empty(len(refs), first.size_bytes, dtype=torch.uint8)
        for ref, buffer in zip(refs, stored, strict=True):
            self._fill(ref, _bytes_of(buffer))
            _check_sha(ref, _bytes_of(buffer))
        whole = stored if first.dtype == "int8" else stored.view(read_dtype(first.dtype))
        return self._write_stored(whole, [ref.norm for ref in refs])

    def read_row(self, ref: RowRef, out: Tensor | None = None) -> Tensor:
        """The row ``(P,)`` in ``encoding.read_dtype`` of its dtype, checked when first read.

        Args:
            ref: where it lies.
            out: contiguous CPU tensor ``(P,)`` of that dtype to read into; None makes a fresh one.
                What it holds after an error is not to be used.

        Raises:
            Corrupt: code ``lost_file``, ``bad_size``, ``sha_mismatch`` or ``non_finite``.
        """
        import torch

        size, dtype = numbers_in(ref.dtype, ref.size_bytes), read_dtype(ref.dtype)
        row = torch.empty(size, dtype=dtype) if out is None else out
        assert row.dtype == dtype, "the slot has another dtype than rows are read in"
        if row.shape != (size,):
            raise Corrupt(
                f"the row at {ref.offset} of weight file {ref.file} has {size} numbers,"
                f" {tuple(row.shape)} expected",
                code="bad_size",
            )
        packed = ref.dtype == "int8"
        stored = torch.empty(ref.size_bytes, dtype=torch.uint8) if packed else row
        buffer = _bytes_of(stored)
        self._fill(ref, buffer)
        known = self._verified.get(ref.file, {}).get(ref.offset) == ref.sha256
        if not known:
            _check_sha(ref, buffer)
        if packed:
            dequantize(stored, row)
        if not known:
            _check_finite(ref, row)
            self._verified.setdefault(ref.file, {})[ref.offset] = ref.sha256
        return row

    def will_need(self, refs: Sequence[RowRef]) -> None:
        """Let the system read these rows ahead; a hint, that no failure makes worse."""
        if not hasattr(os, "posix_fadvise"):
            return
        for ref in refs:
            with suppress(OSError, Corrupt, InvalidInput):
                file = self._open(ref.file)
                os.posix_fadvise(
                    file.descriptor, ref.offset, ref.size_bytes, os.POSIX_FADV_WILLNEED
                )

    def verify_row(self, ref: RowRef) -> None:
        """Check a row against what is on disk now, even if it was read before; Corrupt."""
        self._let_go(ref.file)
        self.read_row(ref)

    def shape(self, name: str) -> FileShape:
        """What the row file under ``name`` says of itself; Corrupt if it is lost or not whole."""
        return read_shape(self.path(name))

    def write_tensors(self, tensors: Mapping[str, Tensor]) -> str:
        """Write named tensors as one durable file and return its name, the sha256 of its bytes."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return self._write(whole, {**self.fields, "holds": "tensors"})[0]

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file by ``write_tensors``, its sha256 checked; Corrupt."""
        from safetensors.torch import load

        with (
            storage_failures(f"weight file {name}"),
            os.fdopen(open_file(self.path(name)), "rb") as file,
        ):
            data = file.read()
        if hashlib.sha256(data).hexdigest() != name:
            raise Corrupt(f"weight file {name} does not match its sha256", code="sha_mismatch")
        return dict(load(data))

    def sha256(self, name: str) -> str:
        """The sha256 of the bytes now in the file ``name``; Corrupt if it is lost."""
        with (
            storage_failures(f"weight file {name}"),
            os.fdopen(open_file(self.path(name)), "rb") as file,
        ):
            return hashlib.file_digest(file, "sha256").hexdigest()

    def names(self) -> set[str]:
        """The names of all files that are there."""
        return {path.stem for path in self.folder.glob("??/*.safetensors")}

    def staged(self) -> list[Path]:
        """Files that were begun and not finished, by a crash or by a process at work now."""
        return sorted((self.folder / "staging").glob("*"))

    def remove(self, name: str) -> int:
        """Remove a file for good; its bytes, or 0 if it was gone. May be repeated after a crash.

        Raises:
            StorageFailed: it may still be there after a power cut.
        """
        path = self.path(name)
        self._let_go(name)
        with storage_failures(f"weight file {name}"):
            size_bytes = 0
            with suppress(FileNotFoundError):
                size_bytes = path.stat().st_size
                path.unlink()
            if path.parent.is_dir():
                sync_folder(path.parent)
        return size_bytes

    def close(self) -> None:
        """Let go of all open files."""
        with self._lock:
            self._files.clear()

    def _let_go(self, name: str) -> None:
        """Close a file and forget what was checked of it."""
        with self._lock:
            self._files.pop(name, None)
            self._verified.pop(name, None)

    def _fill(self, ref: RowRef, buffer: memoryview) -> None:
        """Read the stored bytes of a row into ``buffer``, unchecked, in one call."""
        file, count = self._open(ref.file), 0
        if 0 <= ref.offset < MAX_OFFSET:
            with storage_failures(f"weight file {ref.file}"):
                count = os.preadv(file.descriptor, [buffer], ref.offset)
        if count != ref.size_bytes:
            raise Corrupt(
                f"weight file {ref.file} is too short: {count} bytes at {ref.offset},"
                f" {ref.size_bytes} expected",
                code="bad_size",
            )

    def _write_stored(self, stored: Tensor, norms: Sequence[float]) -> list[RowRef]:
        """One durable file of rows in their stored form: float ``(n, P)``, or the bytes of int8."""
        import torch

        dtype: DeltaDtype = "int8"
        if stored.dtype != torch.uint8:
            dtype = next(name for name in ITEM_BYTES if read_dtype(name) == stored.dtype)
        with ThreadPoolExecutor(1) as other:  # rows are hashed while the file is written
            hashes = other.submit(lambda: [hashlib.sha256(_bytes_of(row)) for row in stored])
            name, data_offset = self._write({"rows": stored}, self.fields, len(stored))
        width = stored.shape[1] * stored.element_size()
        return [
            RowRef(
                file=name,
                offset=data_offset + i * width,
                size_bytes=width,
                dtype=dtype,
                sha256=sha256.hexdigest(),
                norm=norm,
            )
            for i, (sha256, norm) in enumerate(zip(hashes.result(), norms, strict=True))
        ]

    def _write(
        self, tensors: Mapping[str, Tensor], fields: Mapping[str, str], rows: int = 1
    ) -> tuple[str, int]:
        """Name of the durable file with ``tensors``, and where its data begin."""
        from safetensors.torch import save

        # one header field: the library writes several in random order, and names follow from bytes
        metadata = {"adapterdb": json.dumps(dict(fields), sort_keys=True)}
        data = save(dict(tensors), metadata=metadata)
        name = hashlib.sha256(data).hexdigest()
        self._claim(name, rows)
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
            if file is not None and not file.removed:
                self._files.move_to_end(name)
                return file
            if file is not None:  # removed, or replaced by an equal one, in another process
                del self._files[name]
                self._verified.pop(name, None)
            file = _OpenFile(open_file(self.path(name)))
            self._files[name] = file
            while len(self._files) > self._most_files:
                self._files.popitem(last=False)
            return file


def _most_files() -> int:
    """How many weight files this process may keep open."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN_FILES if allowed == resource.RLIM_INFINITY else min(OPEN_FILES, allowed // 4)


class _OpenFile:
    """A descriptor that is closed when the last thread that reads from it lets go."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @property
    def removed(self) -> bool:
        """Whether the file has no name any more."""
        return not os.fstat(self.descriptor).st_nlink

    def __del__(self) -> None:
        os.close(self.descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_sha(ref: RowRef, buffer: memoryview) -> None:
    """Corrupt unless the bytes of the row are those that were written."""
    if hashlib.sha256(buffer).hexdigest() != ref.sha256:
        raise Corrupt(
            f"the row at {ref.offset} of weight file {ref.file} does not match its sha256",
            code="sha_mismatch",
            hint="ingest the document again, or restore the file from a backup",
        )


def _check_finite(ref: RowRef, row: Tensor) -> None:
    """Corrupt unless the row can be used."""
    import torch

    if not math.isfinite(ref.norm) or not bool(torch.isfinite(row).all()):
        raise Corrupt(
            f"the row at {ref.offset} of weight file {ref.file} holds NaN or infinity",
            code="non_finite",
        )


def _bytes_of(row: Tensor) -> memoryview:
    """The memory of a row, without a copy."""
    import torch

    array: Any = row.view(torch.uint8).numpy()
    return memoryview(array)
