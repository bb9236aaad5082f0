"""Failures of the file system and the SQL driver, turned into ``StorageFailed`` and ``Locked``."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from adapterdb.errors import AdapterDBError, Corrupt, InvalidInput, Locked, StorageFailed

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
    "cannot_open": "check that it is there, that you may read it, and the limit of open files",
    "catalog_unreachable": "check that the server runs and the URL, PGPASSWORD or .pgpass are right;"
    " a change under way is there whole or not at all, and may be made again",
}
# how SQLite's names of errors begin, and PostgreSQL's codes
SQLITE_FAILED = {
    "SQLITE_FULL": "disk_full",
    "SQLITE_READONLY": "read_only",
    "SQLITE_CANTOPEN": "cannot_open",
    "SQLITE_IOERR": "io",
}
SQLITE_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
SQLITE_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
POSTGRES_FAILED = {
    "53100": "disk_full",
    "25006": "read_only",
    "42501": "read_only",  # not permitted
    "58": "io",
    "08": "catalog_unreachable",  # connection lost
    "28": "catalog_unreachable",  # not let in
    "3D": "catalog_unreachable",  # no such database
    "53300": "catalog_unreachable",  # too many connections
    "57P": "catalog_unreachable",  # shutting down
}
POSTGRES_LOCKED = ("40001", "40P01", "55P03")  # serialization, deadlock, lock timeout
POSTGRES_DAMAGED = ("XX001", "XX002")
POSTGRES_NO_SCHEMA = "3F"


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
    said = " ".join(str(error.orig).split())
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return _known(
            what, said, _starting(name, SQLITE_FAILED), SQLITE_LOCKED, SQLITE_DAMAGED, name
        )
    state = getattr(error.orig, "sqlstate", None)
    if state is not None and not error.connection_invalidated:
        if state.startswith(POSTGRES_NO_SCHEMA):
            hint = "make the schema that the catalog's URL names, or name another"
            return InvalidInput(f"{what}: {said}", code="bad_catalog_url", hint=hint)
        failed = _starting(state, POSTGRES_FAILED)
        return _known(what, said, failed, POSTGRES_LOCKED, POSTGRES_DAMAGED, state)
    # a connection that was never made, or is gone, has no code
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return _failed(what, said, "catalog_unreachable")
    return None


def _known(
    what: str,
    said: str,
    failed: str | None,
    locked: tuple[str, ...],
    damaged: tuple[str, ...],
    name: str,
) -> AdapterDBError | None:
    if failed is not None:
        return _failed(what, said, failed)
    if name.startswith(locked):
        hint = "wait for the other process, then run the command again"
        return Locked(f"{what} is held by another process: {said}", hint=hint)
    if name.startswith(damaged):
        return Corrupt(f"{what} is damaged: {said}", hint="restore it from a backup")
    return None


def _failed(what: str, said: str, code: str) -> StorageFailed:
    return StorageFailed(f"{what}: {said}", code=code, hint=HINTS[code])


def _starting(name: str, codes: Mapping[str, str]) -> str | None:
    return next((code for start, code in codes.items() if name.startswith(start)), None)
