"""Failures of the file system and the SQL driver, turned into ``StorageFailed`` and ``Locked``."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError

from adapterdb.errors import AdapterDBError, Corrupt, Locked, StorageFailed

CODES = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.EIO: "io",
}
HINTS = {
    "disk_full": "free some space and run the command again; nothing acknowledged is lost",
    "read_only": "make the folder writable, or open it with read_only",
    "io": "check the disk, then run `adb doctor`",
}
SQLITE_WORDS = {
    "disk is full": "disk_full",
    "readonly database": "read_only",
    "unable to open database file": "io",
    "disk i/o error": "io",
}


@contextmanager
def storage_failures(what: str) -> Iterator[None]:
    """Raise StorageFailed where the body meets a full, read-only or failing file system.

    Other ``OSError`` (a missing file, above all) pass through.
    """
    try:
        yield
    except OSError as error:
        code = CODES.get(error.errno or 0)
        if code is None:
            raise
        raise StorageFailed(f"{what}: {error.strerror}", code=code, hint=HINTS[code]) from error


@contextmanager
def sql_failures(what: str) -> Iterator[None]:
    """Raise our errors where the SQL driver in the body reports a failing disk or a held lock."""
    try:
        yield
    except DBAPIError as error:
        known = _from_driver(error, what)
        if known is None:
            raise
        raise known from error


def _from_driver(error: DBAPIError, what: str) -> AdapterDBError | None:
    said = str(error.orig)
    for words, code in SQLITE_WORDS.items():
        if words in said.lower():
            return StorageFailed(f"{what}: {said}", code=code, hint=HINTS[code])
    if isinstance(error, OperationalError) and "locked" in said:
        hint = "wait for the other process, then run the command again"
        return Locked(f"{what} is held by another process for over 30 s", hint=hint)
    if "malformed" in said or "not a database" in said:
        return Corrupt(f"{what} is damaged: {said}", hint="restore it from a backup")
    return None
