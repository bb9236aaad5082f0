"""Failures of the file system and the SQL driver, turned into ``StorageFailed`` and ``Locked``."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from adapterdb.errors import AdapterDBError, Corrupt, InvalidInput, Locked, StorageFailed

CODES = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.EIO: "io",
    errno.EMFILE: "cannot_open",
    errno.ENFILE: "cannot_open",
}
FULL_BYTES = 2**16  # what SQLite asks for at once
HINTS = {
    "disk_full": "free some space and run the command again; nothing acknowledged is lost",
    "read_only": "make the folder writable, or open it with read_only",
    "io": "check the disk, then run `adb fsck`",
    "cannot_open": "check that it is there, that you may read it, and the limit of open files",
    "catalog_unreachable": "check that the server runs, and URL, PGPASSWORD or .pgpass; a change"
    " under way is there whole or not at all: make it again",
    "locked": "wait for the other process, then run the command again",
    "corrupt": "restore it from a backup",
    "bad_catalog_url": "make the schema that the catalog's URL names, or name another",
}
# how SQLite's names of errors begin
SQLITE = {
    "SQLITE_FULL": "disk_full",
    "SQLITE_READONLY": "read_only",
    "SQLITE_CANTOPEN": "cannot_open",
    "SQLITE_IOERR": "io",
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_CORRUPT": "corrupt",
    "SQLITE_NOTADB": "corrupt",
}
# how PostgreSQL's codes begin
POSTGRES = {
    "53100": "disk_full",
    "25006": "read_only",
    "42501": "read_only",  # not permitted
    "58": "io",
    "08": "catalog_unreachable",  # connection lost
    "28": "catalog_unreachable",  # not let in
    "3D": "catalog_unreachable",  # no such database
    "53300": "catalog_unreachable",  # too many connections
    "57P": "catalog_unreachable",  # shutting down
    "40001": "locked",  # serialization
    "40P01": "locked",  # deadlock
    "55P03": "locked",  # lock timeout
    "XX001": "corrupt",
    "XX002": "corrupt",
    "3F": "bad_catalog_url",  # no such schema
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
def sql_failures(what: str, folder: Path | None = None) -> Iterator[None]:
    """Raise our errors where the SQL driver in the body reports a failing disk or a held lock.

    Args:
        what: how errors name the catalog.
        folder: of SQLite's files, which calls some failures on a full disk failures to read.
    """
    try:
        yield
    except DBAPIError as error:
        known = _from_driver(error, what, folder)
        if known is None:
            raise
        raise known from error


def _from_driver(error: DBAPIError, what: str, folder: Path | None) -> AdapterDBError | None:
    code = _code(error)
    if code in ("io", "cannot_open") and folder is not None and _full(folder):
        code = "disk_full"
    said = " ".join(str(error.orig).split())
    match code:
        case None:
            return None
        case "locked":
            return Locked(f"{what} is held by another process: {said}", hint=HINTS[code])
        case "corrupt":
            return Corrupt(f"{what} is damaged: {said}", hint=HINTS[code])
        case "bad_catalog_url":
            return InvalidInput(f"{what}: {said}", code=code, hint=HINTS[code])
    return StorageFailed(f"{what}: {said}", code=code, hint=HINTS[code])


def _code(error: DBAPIError) -> str | None:
    if error.connection_invalidated:
        return "catalog_unreachable"
    name, known = getattr(error.orig, "sqlite_errorname", None), SQLITE
    if name == "SQLITE_ERROR" and "no such" in str(error.orig):
        return "corrupt"  # a table or column that was there: its declaration is damaged
    if name is None:
        name, known = getattr(error.orig, "sqlstate", None), POSTGRES
    if name is None:  # no connection was made, so no server gave a code
        lost = isinstance(error, OperationalError | InterfaceError)
        return "catalog_unreachable" if lost else None
    return next((code for start, code in known.items() if name.startswith(start)), None)


def _full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False
