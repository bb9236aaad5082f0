"""Lock files: held by one process at a time, let go by the system when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from adapterdb.errors import Locked
from adapterdb.store.failures import storage_failures


@contextmanager
def held(path: Path, busy: str, timeout_s: float) -> Iterator[None]:
    """Hold the lock file at ``path`` inside the block.

    Raises:
        Locked: with the message ``busy``, if another holds it for longer than ``timeout_s``.
        StorageFailed: if the file can't be made.
    """
    lock = FileLock(path, timeout=timeout_s)
    try:
        with storage_failures(f"lock {path}"):
            lock.acquire()
    except Timeout as error:
        raise Locked(busy, hint="wait for the other process, then run the command again") from error
    try:
        yield
    finally:
        lock.release()
