"""Connections to the catalog: transactions, and what every SQLite connection must be set to.

SQLite runs in WAL mode with synchronous=FULL, so a commit survives a power cut. A transaction that
writes begins with BEGIN IMMEDIATE: one that reads first and upgrades later fails at once with
"database is locked", whatever the timeout. Any other SQLAlchemy URL is used as it is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.orm import Session

from adapterdb.errors import StorageFailed
from adapterdb.store.failures import sql_failures

BUSY_S = 30.0
PRAGMAS = (
    "foreign_keys=ON",
    "secure_delete=ON",  # deleted text is overwritten, not just unlinked
    "case_sensitive_like=ON",  # as on PostgreSQL
)


class Sessions:
    """Transactions on one catalog. Safe for use by several threads.

    Args:
        path: of the SQLite file; used if ``url`` is None.
        url: SQLAlchemy URL of another database.
        create: make the SQLite file if it is missing.
    """

    def __init__(
        self, path: Path, *, url: str | None = None, read_only: bool = False, create: bool = False
    ) -> None:
        self.path = path
        self.is_sqlite = url is None
        self.what = "the catalog" if url else f"the catalog {path.name}"
        self._read_only = read_only
        if url is None:
            self._reader = _sqlite_engine(path, read_only, create)
        else:
            self._reader = create_engine(url)
        self._writer = self._reader.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state throughout and changes nothing."""
        made = Session(self._reader, expire_on_commit=False)
        with sql_failures(self.what), made as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed, durably, when the body ends without an error."""
        if self._read_only:
            raise StorageFailed("the store is open for reading only", code="read_only")
        made = Session(self._writer, expire_on_commit=False)
        with sql_failures(self.what), made as session, session.begin():
            yield session

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A writing transaction without the ORM."""
        with sql_failures(self.what), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._reader.dispose()


def _sqlite_engine(path: Path, read_only: bool, create: bool) -> Engine:
    query = _read_only_query(path) if read_only else "mode=rwc" if create else "mode=rw"
    uri = f"file:{quote(str(path.resolve()))}?{query}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, record: Any) -> None:
        modes = () if read_only else ("journal_mode=WAL", "synchronous=FULL")
        for pragma in (*modes, *PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _read_only_query(path: Path) -> str:
    """How to open without writing: a WAL database needs its shm file, except when immutable."""
    if os.access(path.parent, os.W_OK):
        return "mode=ro"
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise StorageFailed(
            f"{path.parent} can't be written and {log.name} holds changes not yet in {path.name}",
            code="read_only",
            hint="copy the home to a folder that can be written and open the copy",
        )
    return "mode=ro&immutable=1"
