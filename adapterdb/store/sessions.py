"""Transactions on the catalog: what each may do, what it sees, and when writing is refused.

A reading transaction sees one state throughout. Writing ones are put in order by the lock they
take first: BEGIN IMMEDIATE on SQLite, the clock's row (see ``changes``) on PostgreSQL. After a
write that the disk failed, nobody knows what is on it: no more is written until the store is
opened again, and reading goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from weakref import finalize

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from adapterdb.errors import Locked, StorageFailed
from adapterdb.store.catalog_url import parse
from adapterdb.store.engines import BUSY_S, postgres, sqlite_reader, sqlite_writer
from adapterdb.store.failures import sql_failures
from adapterdb.store.filesystems import refuse_network
from adapterdb.store.tables import Table

# a server's database may hold more than the catalog
OWN_TABLES = ", ".join(f'"{name}"' for name in Table.metadata.tables)


class Sessions:
    """Transactions on one catalog. Safe for use by several threads, not by a forked child.

    Args:
        path: of the SQLite file; used if ``url`` is None.
        url: SQLAlchemy URL of a PostgreSQL database, or of an SQLite file elsewhere.
        create: make the SQLite file if it is missing.

    Attributes:
        path: of the SQLite file, if there is one.
        is_sqlite: whether there is.
        what: how errors name the catalog.

    Raises:
        InvalidInput: code ``bad_catalog_url`` or ``needs_extra``.
        StorageFailed: code ``network_file_system``, for an SQLite file there.
    """

    def __init__(
        self, path: Path, *, url: str | None = None, read_only: bool = False, create: bool = False
    ) -> None:
        address = None if url is None else parse(url)
        self.is_sqlite = address is None or address.get_backend_name() == "sqlite"
        if self.is_sqlite and address is not None:
            path = Path(address.database or "")
        self.path = path
        self.what = f"the catalog {path.name}" if self.is_sqlite else "the catalog"
        self._read_only = read_only
        self._failed = ""
        self._process = os.getpid()
        copied: Path | None = None
        if address is not None and not self.is_sqlite:
            engine = postgres(address)
        elif read_only:
            engine, copied = sqlite_reader(path)
        else:
            refuse_network(path)
            engine = sqlite_writer(path, create=create)
        self._engine = engine
        self._drop_copy = finalize(self, _remove, copied, self._process)
        self._reader = _with_options(engine, writes=False)
        self._writer = _with_options(engine, writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state throughout and changes nothing."""
        self.check_process()
        made = Session(self._reader, expire_on_commit=False)
        with self._failures(), made as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed, durably, when the body ends without an error."""
        made = Session(self._writer, expire_on_commit=False)
        with self.guarded(), self._failures(), made as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """The same as ``reading`` without the ORM, for reading tables whole."""
        self.check_process()
        with self._failures(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A writing transaction without the ORM."""
        with self.guarded(), self._failures(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """For whatever else writes to the store's disk: refused, and remembered, as for SQL."""
        self.check_writable()
        try:
            yield
        except StorageFailed as error:
            if error.code == "io":
                self._failed = error.message
            raise

    def connect(self) -> None:
        """Reach the catalog, or say why not: StorageFailed, code ``catalog_unreachable``."""
        with self.snapshot():
            pass

    def _failures(self) -> AbstractContextManager[None]:
        return sql_failures(self.what, self.path.parent if self.is_sqlite else None)

    def check_writable(self) -> None:
        """Raise StorageFailed, code ``read_only``, ``needs_recovery`` or ``forked``."""
        self.check_process()
        if self._read_only:
            raise StorageFailed("the store is open for reading only", code="read_only")
        if self._failed:
            raise StorageFailed(
                f"nothing more is written after a write that failed: {self._failed}",
                code="needs_recovery",
                hint="check the disk, open the store again and run `adb fsck`",
            )

    def check_process(self) -> None:
        """Raise StorageFailed, code ``forked``, in a forked child: connections don't survive it."""
        if os.getpid() != self._process:
            raise StorageFailed(
                "this store was opened before a fork; it can't be used in the child",
                code="forked",
                hint="open the store in the child, or start it with multiprocessing's 'spawn'",
            )

    def analyze(self) -> None:
        """Renew the database's own figures, by which it chooses how to look things up."""
        with self.migrating() as connection:
            statement = "PRAGMA optimize=0x10002" if self.is_sqlite else f"ANALYZE {OWN_TABLES}"
            connection.exec_driver_sql(statement)

    def truncate_log(self, timeout_s: float = BUSY_S) -> None:
        """Move everything from SQLite's log into its file and empty the log.

        Raises:
            Locked: if readers keep it from being emptied for longer than ``timeout_s``.
        """
        if not self.is_sqlite:
            return
        until = time.monotonic() + timeout_s
        while self._statement("PRAGMA wal_checkpoint(TRUNCATE)"):
            if time.monotonic() > until:
                raise Locked(
                    f"the log of {self.what} is in use for over {timeout_s:g} s",
                    hint="wait for the other process, then run the command again",
                )
            time.sleep(0.05)

    def vacuum(self) -> None:
        """Write the database anew, without the space of what was removed."""
        self._statement("VACUUM" if self.is_sqlite else f"VACUUM (FULL) {OWN_TABLES}")
        self.truncate_log()

    def _statement(self, statement: str) -> int:
        """Run a statement outside any transaction; the first number it returns."""
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT", bare=True)
        with self.guarded(), self._failures(), engine.connect() as connection:
            found = connection.exec_driver_sql(statement)
            row = found.first() if found.returns_rows else None
            return int(row[0]) if row else 0

    def close(self) -> None:
        """Close all connections; in a forked child they are its parent's and are left alone."""
        self._engine.dispose(close=os.getpid() == self._process)
        self._drop_copy()


def _with_options(engine: Engine, *, writes: bool) -> Engine:
    if engine.dialect.name == "sqlite":
        return engine.execution_options(writes=writes)
    # a reader's one state; a writer's statements see what was committed before the lock was theirs
    level = "READ COMMITTED" if writes else "REPEATABLE READ"
    return engine.execution_options(isolation_level=level, postgresql_readonly=not writes)


def _remove(copied: Path | None, process: int) -> None:
    if copied is not None and os.getpid() == process:
        shutil.rmtree(copied, ignore_errors=True)
