"""How connections to each kind of catalog are made, and what every one of them is set to.

SQLite runs in WAL mode with synchronous=FULL, so a commit survives a power cut. A transaction that
writes begins with BEGIN IMMEDIATE: one that reads first and upgrades later fails at once with
"database is locked", whatever the timeout.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event

from adapterdb.errors import InvalidInput, StorageFailed
from adapterdb.store.failures import HINTS, storage_failures
from adapterdb.store.filesystems import network_type

BUSY_S = 30.0
ROOM_BYTES = 2**18
CONNECT_S = 10
PRAGMAS = (
    "foreign_keys=ON",
    "secure_delete=ON",  # deleted text is overwritten, not just unlinked
    "case_sensitive_like=ON",  # as on PostgreSQL
)
# waits as long as SQLite does, and a server that acknowledges too early is told not to
SETTINGS = (
    f"SET lock_timeout = {int(BUSY_S * 1000)}",
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'",
)


def sqlite_writer(path: Path, *, create: bool) -> Engine:
    """Connections to the file at ``path`` for reading and writing.

    Raises:
        StorageFailed: code ``read_only``, if its folder can't be written: SQLite needs a log there.
    """
    if path.exists() and not os.access(path.parent, os.W_OK):
        raise StorageFailed(
            f"{path.parent} can't be written", code="read_only", hint=HINTS["read_only"]
        )
    mode = "rwc" if create else "rw"
    return _sqlite(path, f"mode={mode}", ("journal_mode=WAL", "synchronous=FULL", *PRAGMAS))


def sqlite_reader(path: Path) -> tuple[Engine, Path | None]:
    """Connections that write nothing; and a folder to remove after them, if one had to be made.

    SQLite reads a write-ahead log only with the shared memory file of its writers beside it. Where
    that is missing and can't be made (no permission, a full disk), a copy of both is read; without
    a log, the file as it is.
    """
    log, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    local = network_type(path) is None
    can_make = os.access(path.parent, os.W_OK) and has_room(path.parent)
    if local and (can_make or (log.exists() and shared.exists() and _opens(path))):
        return _sqlite(path, "mode=ro", PRAGMAS), None
    if not (log.exists() and log.stat().st_size):
        return _sqlite(path, "mode=ro&immutable=1", PRAGMAS), None
    with storage_failures("copying the catalog to a temporary folder"):
        folder = Path(tempfile.mkdtemp(prefix="adapterdb-"))
        for source in (path, log):
            shutil.copyfile(source, folder / source.name)
    return _sqlite(folder / path.name, "mode=ro", PRAGMAS), folder


def _opens(path: Path) -> bool:
    """Whether SQLite can read the file where it lies; on a full disk it may not."""
    try:
        with closing(sqlite3.connect(_uri(path, "mode=ro"), uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return False
    return True


def has_room(folder: Path) -> bool:
    """Whether the disk has the little room that SQLite needs to open a file in ``folder``."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def postgres(url: URL) -> Engine:
    """Connections to a PostgreSQL database; InvalidInput (code ``needs_extra``) without psycopg."""
    wanted = {
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_S,
        "application_name": "adapterdb",
    }
    given = {name: value for name, value in wanted.items() if name not in url.query}
    try:
        # threads are not held up by a pool that is used up: one may read while it writes
        engine = create_engine(url, connect_args=given, pool_pre_ping=True, max_overflow=-1)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "a catalog on PostgreSQL needs psycopg: pip install 'adapterdb[postgres]'",
            code="needs_extra",
        ) from error

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            for statement in SETTINGS:
                cursor.execute(statement)
        connection.commit()

    return engine


def _sqlite(path: Path, query: str, pragmas: tuple[str, ...]) -> Engine:
    uri = _uri(path, query)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("bare"):  # VACUUM and the like run in no transaction
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    return engine


def _uri(path: Path, query: str) -> str:
    return f"file:{quote(str(path.resolve()))}?{query}"
