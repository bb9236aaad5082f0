"""Whole copies of a home: a backup while writers run, and a home made from a backup.

The catalog is read as of one moment and copied row by row, so that it may lie in any database and
be copied into any other. Every weight file that this copy names is copied after it and checked
against its sha256; files never change, so they may be copied later than the moment. The index is
not copied: the first search in the copy builds it. A copy is made beside its place and renamed, so
that it exists only when it is whole and durable.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from adapterdb.config import FILE_NAME, RECIPE_FILE
from adapterdb.errors import Corrupt, Exists, InvalidInput, Mismatch
from adapterdb.records import Record
from adapterdb.store.catalog import Catalog
from adapterdb.store.failures import storage_failures
from adapterdb.store.folders import Folders
from adapterdb.store.migrations import FORMAT, ask_for_index, check_format, stored_format
from adapterdb.store.purge import withdrawn_files
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import (
    ClaimTable,
    ClockTable,
    DeltaTable,
    DocumentTable,
    GenerationTable,
    InfoTable,
    OutboxTable,
    PassageTable,
    Table,
    WeightFileTable,
)
from adapterdb.store.weights import Weights, sync_folder

if TYPE_CHECKING:
    from adapterdb.store.store import Store

ROWS = 100  # in memory at once: a document's text may have 10 MB
BLOCK_BYTES = 2**20
WAIT_S = 60.0
NAMED = 5  # damaged deltas that a problem names
# of the running home alone: its index, and the writers at work in it
NOT_COPIED = {t.__tablename__ for t in (OutboxTable, GenerationTable, ClaimTable)}


@dataclass(frozen=True)
class CopyReport(Record):
    """What a backup or restore copied.

    Args:
        path: the new home.
        seq: number of the last change that is in it.
        documents, deltas: active ones.
        files: weight files copied; ``size_bytes``: of catalog and weight files.
        problems: what in the source was lost or damaged, and what became of it.
    """

    path: str
    seq: int
    documents: int
    deltas: int
    files: int
    size_bytes: int
    problems: tuple[str, ...] = ()


def backup(store: Store, folder: Path) -> CopyReport:
    """Copy the home of ``store``, as it is at one moment, into the new home ``folder``.

    Writers go on meanwhile; what removes files (gc, forget) waits. The copy has its catalog in
    SQLite, wherever the catalog of the source is.

    Raises:
        Exists: if there is something in ``folder`` already.
        InvalidInput: if ``folder`` lies in the home.
        Locked: if another process tidies up for over a minute.
        StorageFailed: if ``folder`` can't be written; nothing is left there.
    """
    if store.home.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InvalidInput(f"a backup of {store.home} can't lie in it: {folder}")
    with _new_home(folder) as made, _housekeeping(store):
        return _copy(store.paths, store.sessions, made, folder, store.uuid, None)


def restore(source: Path, folder: Path, *, catalog_url: str | None = None) -> CopyReport:
    """Make the new home ``folder`` from the backup ``source``, which is only read.

    Args:
        source: as made by ``backup``; of an older format too.
        folder: may exist if it is empty.
        catalog_url: SQLAlchemy URL of an empty database; None means SQLite in the home.

    Raises:
        NotFound: if there is no backup.
        Exists: if there is something in ``folder`` or behind ``catalog_url`` already.
        Mismatch: code ``format`` if a newer program made the backup.
        Corrupt: if its catalog is lost or can't be read.
    """
    folders = Folders(source)
    number, uuid = folders.read_format()
    check_format(number, number)
    if not folders.catalog.exists():
        raise Corrupt(f"{folders.catalog} is missing", code="lost_catalog")
    with _new_home(folder) as made, _current(folders, made) as sessions:
        return _copy(folders, sessions, made, folder, uuid, catalog_url)


def _copy(
    source: Folders,
    sessions: Sessions,
    made: Folders,
    final: Path,
    uuid: str,
    catalog_url: str | None,
) -> CopyReport:
    """Everything of a home but FORMAT's rename; ``made`` becomes ``final`` afterwards."""
    made.make_folders()
    with storage_failures(f"copy {made.folder}"):
        for name in (FILE_NAME, RECIPE_FILE):
            if (source.folder / name).exists():
                shutil.copyfile(source.folder / name, made.folder / name)
                _sync_file(made.folder / name)
    target = Sessions(made.catalog, url=catalog_url, create=True)
    try:
        with target.migrating() as connection:
            problems = _copy_catalog(sessions, connection)
            if _uuid(connection) != uuid:
                raise Mismatch(f"the catalog belongs to another store than {source.folder}")
            files, damage = _copy_files(source, made, connection)
            seq, documents, deltas = _counts(connection)
    finally:
        target.close()
    if made.catalog.exists():
        _sync_file(made.catalog)
    made.write_format(FORMAT, uuid, catalog_url)
    catalog_bytes, weight_bytes, _ = made.sizes()
    return CopyReport(
        path=str(final),
        seq=seq,
        documents=documents,
        deltas=deltas,
        files=files,
        size_bytes=catalog_bytes + weight_bytes,
        problems=(*problems, *damage),
    )


# the catalog


def _copy_catalog(sessions: Sessions, target: Connection) -> list[str]:
    """Every row of one moment into new tables behind ``target``; texts that are damaged."""
    Table.metadata.create_all(target)
    if target.scalar(select(func.count()).select_from(InfoTable)):
        raise Exists("the catalog holds a store already", hint="name an empty database")
    problems: list[str] = []
    with sessions.snapshot() as connection:
        for table in Table.metadata.sorted_tables:
            if table.name in NOT_COPIED:
                continue
            for rows in _batches(connection, table):
                target.execute(insert(table), rows)
                if table.name == DocumentTable.__tablename__:
                    problems += _altered(rows)
    for table in Table.metadata.sorted_tables:
        _restart_numbers(target, table)
    ask_for_index(target)
    return problems


def _batches(connection: Connection, table: SqlTable) -> Iterator[list[dict[str, Any]]]:
    found = connection.execution_options(yield_per=ROWS).execute(select(table))
    for part in found.mappings().partitions():
        yield [dict(row) for row in part]


def _altered(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if hashlib.sha256(row["text"].encode()).hexdigest() != row["text_sha256"]:
            name = f"{row['name']}@{row['version']}"
            yield f"the text of document {name!r} does not match its sha256; copied as it is"


def _restart_numbers(connection: Connection, table: SqlTable) -> None:
    """Have PostgreSQL count on from the copied ids; SQLite does so by itself."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    last = connection.scalar(select(func.max(column)))
    sequence = func.pg_get_serial_sequence(table.name, column.name)
    if last is not None and connection.scalar(select(sequence)) is not None:
        connection.execute(select(func.setval(sequence, last)))


def _uuid(connection: Connection) -> str | None:
    return connection.scalar(select(InfoTable.value).where(InfoTable.name == "uuid"))


def _counts(connection: Connection) -> tuple[int, int, int]:
    """Number of the last change, active documents, their deltas."""
    active = DocumentTable.state == "active"
    documents = select(func.count()).select_from(DocumentTable).where(active)
    deltas = (
        select(func.count())
        .select_from(DeltaTable)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(active)
    )
    seq = connection.scalar(select(func.max(ClockTable.seq)))
    return seq or 0, connection.scalar(documents) or 0, connection.scalar(deltas) or 0


@contextmanager
def _current(folders: Folders, made: Folders) -> Iterator[Sessions]:
    """The catalog of a backup, of an older format by way of a copy that is brought up to date."""
    sessions = Sessions(folders.catalog, read_only=True)
    scratch = made.folder / "older.db"
    try:
        with sessions.snapshot() as connection:
            found = stored_format(connection)
        check_format(found, found)
        if 0 < found < FORMAT:
            sessions.close()
            uri = f"{folders.catalog.resolve().as_uri()}?mode=ro"
            with (
                storage_failures(f"copy {scratch}"),
                closing(sqlite3.connect(uri, uri=True)) as old,
                closing(sqlite3.connect(scratch)) as new,
            ):
                old.backup(new)
            sessions = Sessions(scratch)
            Catalog(sessions).bring_up_to_date(read_only=False)
        yield sessions
    finally:
        sessions.close()
        scratch.unlink(missing_ok=True)


# weight files


def _copy_files(source: Folders, made: Folders, connection: Connection) -> tuple[int, list[str]]:
    """How many weight files that the copied catalog names were copied, and what is wrong."""
    tensors = select(InfoTable.value).where(InfoTable.name.startswith("tensors:"))
    names = {*connection.scalars(select(WeightFileTable.name)), *connection.scalars(tensors)}
    with Session(connection) as session:
        names -= withdrawn_files(session)
    files, problems, folders = 0, [], {made.weights}
    old, new = (Weights(home.weights, {}, lambda step: None) for home in (source, made))
    for name in sorted(names):
        digest = _copy_file(old.path(name), new.path(name))
        folders.add(new.path(name).parent)
        files += digest is not None
        if digest != name:
            problems.append(_problem(connection, name, new.path(name), digest))
    for folder in sorted(folders):
        if folder.exists():
            sync_folder(folder)
    return files, problems


def _copy_file(source: Path, target: Path) -> str | None:
    """The sha256 of what was copied, durably; None if the source can't be read to its end."""
    digest = hashlib.sha256()
    with storage_failures(f"copy {target}"):
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as file:
            whole = True
            try:
                blocks = _blocks(source)
                for block in blocks:
                    digest.update(block)
                    file.write(block)
            except _Unreadable:
                whole = False
            file.flush()
            os.fsync(file.fileno())
        if not whole:
            target.unlink()
    return digest.hexdigest() if whole else None


class _Unreadable(Exception):
    """A weight file of the source can't be read; a failure to write is another matter."""


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _Unreadable(str(path)) from error


def _problem(connection: Connection, name: str, copy: Path, digest: str | None) -> str:
    """What is wrong with a weight file, and which deltas that concerns."""
    query = (
        select(DeltaTable)
        .where(DeltaTable.file == name)
        .with_only_columns(
            DeltaTable.id, DeltaTable.offset, DeltaTable.size_bytes, DeltaTable.sha256
        )
    )
    deltas = connection.execute(query.order_by(DeltaTable.id)).all()
    if digest is None:
        bad = [row.id for row in deltas]
        what = f"weight file {name} is missing or can't be read; left out"
    else:
        with copy.open("rb") as file:
            bad = [row.id for row in deltas if not _intact(file, *row[1:])]
        what = f"weight file {name} does not match its sha256; copied as it is"
    if not bad:
        return what
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{what}; damaged: {len(bad)} of {len(deltas)} deltas, {', '.join(bad[:NAMED])}{more}"


def _intact(file: Any, offset: int, size: int, sha256: str) -> bool:
    file.seek(offset)
    return hashlib.sha256(file.read(size)).hexdigest() == sha256


# the place


@contextmanager
def _new_home(folder: Path) -> Iterator[Folders]:
    """Where to make a home that becomes ``folder``, durably, when the body ends without an error.

    What a killed copy left in the same place is removed first.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Exists(f"{str(folder)!r} exists and is not empty", hint="name another folder")
    folder = folder.absolute()
    partial = folder.with_name(f".{folder.name}.partial")
    with storage_failures(f"copy {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
    try:
        yield Folders(partial)
        with storage_failures(f"copy {folder}"):
            sync_folder(partial)
            partial.rename(folder)
            sync_folder(folder.parent)
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def _housekeeping(store: Store) -> AbstractContextManager[None]:
    """Keep gc and forget from removing files; a home that can't be written has neither."""
    writable = os.access(store.paths.locks, os.W_OK)
    return store.housekeeping(WAIT_S) if writable else nullcontext()


def _sync_file(path: Path) -> None:
    with storage_failures(f"copy {path}"), path.open("rb") as file:
        os.fsync(file.fileno())
