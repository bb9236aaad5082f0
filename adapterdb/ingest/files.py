"""Files of a corpus: finding them below a folder, and opening them without surprises.

A folder is read as data from a stranger: names, links, FIFOs and sizes are checked, and each file
is opened component by component without following links, so that a link swapped in between check
and open leads nowhere. Knows no format.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adapterdb.errors import Rejected
from adapterdb.ingest.rejection import Rejection, printable, rejection

MAX_NAME_BYTES = 1024


@dataclass(frozen=True)
class CorpusFile:
    """A file to read: ``root`` is a real folder, ``parts`` the real, link-free way down from it."""

    name: str
    shown: str
    root: str
    parts: tuple[str, ...]


def check_name(name: str) -> str:
    """``name`` in Unicode form NFC.

    Raises:
        Rejected: ``bad_name`` if it is empty, not UTF-8, too long, or has control characters.
    """
    name = unicodedata.normalize("NFC", name)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise Rejected(
            f"the name {printable(name)!r} has a control character or bytes that are not UTF-8",
            code="bad_name",
        )
    if not name.strip() or len(name.encode()) > MAX_NAME_BYTES:
        raise Rejected(
            f"the name {printable(name[:80])!r} is empty or longer than {MAX_NAME_BYTES} bytes",
            code="bad_name",
        )
    return name


def named_file(path: Path) -> CorpusFile:
    """The file a user named; a link is followed, for the user chose it."""
    real = path.resolve()
    return CorpusFile(path.name, str(path), str(real.parent), (real.name,))


def find_files(folder: Path, wanted: Callable[[str], bool]) -> Iterator[CorpusFile | Rejection]:
    """Files below ``folder`` whose relative name is ``wanted``, sorted, hidden ones skipped.

    Links to files inside the folder are read under their own name; links to folders inside it are
    skipped, since their content is reached by its real path.
    """
    root = os.path.realpath(folder)
    stack = [iter(_sorted_entries(root))]
    names: list[str] = []  # of the open folders below root, one fewer than the stack
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            if names:
                names.pop()
            continue
        if entry.name.startswith("."):
            continue
        name = "/".join([*names, entry.name])
        try:
            if entry.is_dir(follow_symlinks=False):
                check_name(name)
                stack.append(iter(_sorted_entries(entry.path)))
                names.append(entry.name)
                continue
            parts = _real_parts(entry, root) if entry.is_symlink() else (*names, entry.name)
            if parts and wanted(name):
                yield CorpusFile(check_name(name), str(folder / name), root, parts)
        except Rejected as error:
            yield rejection(name, error)
        except OSError as error:
            yield rejection(name, _unreadable(error))


def _sorted_entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _real_parts(link: os.DirEntry[str], root: str) -> tuple[str, ...]:
    """Where ``link`` leads, from ``root``; empty for a folder inside it."""
    try:
        real = os.path.realpath(link.path, strict=True)
    except OSError as error:
        reason = f"the link leads nowhere: {error.strerror}"
        raise Rejected(reason, code="unreadable") from error
    prefix = root.rstrip(os.sep) + os.sep
    if real != root and not real.startswith(prefix):
        raise Rejected(
            f"the link {printable(link.path)!r} leads out of {root!r}", code="outside_root"
        )
    if os.path.isdir(real):  # noqa: PTH112 - strings throughout this walk
        return ()
    return Path(real).relative_to(root).parts


@contextmanager
def open_regular(file: CorpusFile) -> Iterator[BinaryIO]:
    """``file`` opened for reading bytes.

    Raises:
        Rejected: ``not_regular``, ``outside_root`` or ``unreadable``.
    """
    try:
        descriptor = _open_beneath(file)
    except OSError as error:
        raise _unreadable(error) from error
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Rejected(f"{printable(file.shown)!r} is not a regular file", code="not_regular")
        os.set_blocking(descriptor, True)
        try:
            yield stream
        except OSError as error:
            raise _unreadable(error) from error


def _open_beneath(file: CorpusFile) -> int:
    """A descriptor of ``file``, no link followed below its root and no FIFO waited for."""
    beneath = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(file.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in file.parts[:-1]:
            inner = os.open(part, beneath | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        mode = os.stat(file.parts[-1], dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):  # opening a device may act on it
            raise Rejected(f"{printable(file.shown)!r} is not a regular file", code="not_regular")
        return os.open(file.parts[-1], beneath | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def read_bytes(file: CorpusFile, limit_bytes: int) -> bytes:
    """The whole content of ``file``.

    Raises:
        Rejected: ``too_large`` (before reading), ``unstable`` if it changed twice while read, or
            as `open_regular`.
    """
    for _ in range(2):
        with open_regular(file) as stream:
            before = stamp(stream)
            if before.size_bytes > limit_bytes:
                raise Rejected(
                    f"{before.size_bytes} bytes; at most {limit_bytes} are allowed",
                    code="too_large",
                )
            data = stream.read(limit_bytes + 1)
            if stamp(stream) == before and len(data) == before.size_bytes:
                return data
    raise Rejected("the file changed while it was read, twice", code="unstable")


@dataclass(frozen=True)
class Stamp:
    """What differs when a file has been written to."""

    size_bytes: int
    modified_ns: int


def stamp(stream: BinaryIO) -> Stamp:
    """The present stamp of the open file ``stream``."""
    status = os.fstat(stream.fileno())
    return Stamp(status.st_size, status.st_mtime_ns)


def _unreadable(error: OSError) -> Rejected:
    reason = error.strerror or str(error)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Rejected(f"a link appeared on the way: {reason}", code="outside_root")
    if error.errno == errno.ENXIO:
        return Rejected(f"not a regular file: {reason}", code="not_regular")
    return Rejected(f"can't be read: {reason}", code="unreadable")
