"""Forgetting: documents made unreachable, then gone from every file the home owns, with a receipt.

    1  one commit: every version of the names, and whatever was derived from them, is deleted and
       marked. From here on no answer can come of them, and whatever happens, the rest is finished
       by the next ``forget``, ``resume`` or repair
    2  weight files that hold their rows are written anew without them; other rows keep their bytes
    3  one commit: their rows leave the catalog, other deltas name the new files; SQLite overwrites
       what it frees. In the log a hash takes the place of the name
    4  the old weight files go; so do unfinished and quarantined files
    5  the index is built anew from the catalog, and every earlier folder of it goes
    6  the log of SQLite is emptied
    7  every file of the home is searched for samples of what is gone. What is found in the catalog
       is mended by writing it anew

Out of reach, and said so in the receipt: backups, exports, answers already given, what other
running processes hold in memory, and copies below the file system (snapshots, worn flash cells).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from adapterdb.errors import InvalidInput
from adapterdb.records import Record, check_namespace
from adapterdb.store import purge, residue
from adapterdb.store.changes import Moment, forget_name, name_hash, note, tick
from adapterdb.store.conditions import condition
from adapterdb.store.failures import storage_failures
from adapterdb.store.filters import Where, as_filter
from adapterdb.store.gc import WAIT_S, clear_index, rewrite, unlink_unused
from adapterdb.store.tables import DocumentTable, ErasureTable
from adapterdb.store.versions import derived, no_document, withdraw

if TYPE_CHECKING:
    from adapterdb.store.store import Store

STEPS = ("forget_marked", "forget_purged", "forget_indexed", "forget_searched")  # besides gc's
OUT_OF_REACH = (
    "backups and exports made before",
    "answers already given, and logs of other programs",
    "deltas still in the memory of other running processes",
    "copies below the file system: snapshots, worn flash cells",
    "the write-ahead log and backups of a PostgreSQL server, if it has the catalog",
)


@dataclass(frozen=True)
class Receipt(Record):
    """Proof of what was forgotten: numbers and hashes only.

    Args:
        seq: the change from which on nothing of it could be reached.
        names: sha256 of namespace, NUL and name, of each document.
        documents, versions, passages: how many were erased; derived ones are among them.
        derived: documents that went because their deltas were made from these.
        files_rewritten: weight files written anew for the rows of others.
        searched_files, searched_bytes: what was searched for samples at the end.
        samples: how many samples were looked for in each file.
        residue: files, relative to the home, in which one was still found; empty if all is well.
        out_of_reach: what AdapterDB can't erase.
    """

    seq: int
    namespace: str
    names: tuple[str, ...]
    documents: int
    versions: int
    passages: int
    derived: int
    files_rewritten: int
    searched_files: int
    searched_bytes: int
    samples: int
    residue: tuple[str, ...]
    out_of_reach: tuple[str, ...] = OUT_OF_REACH
    dry_run: bool = False


@dataclass
class _Marked:
    """What step 1 marked."""

    seq: int
    names: list[tuple[str, str]]
    derived: int


def forget(
    store: Store,
    namespace: str,
    names: Iterable[str] | None = None,
    *,
    where: Where = None,
    dry_run: bool = False,
) -> Receipt:
    """Erase documents, with all versions and whatever was derived from them, from a home.

    Other documents keep their rows to the bit, and so their answers. Deleted documents that are
    still stored can be forgotten by name. Takes time in proportion to the whole home, which is
    searched at the end.

    Args:
        store: open for writing.
        namespace: the only one that is touched, but for derived documents.
        names: of documents; None means all that meet ``where``.
        where: a condition; with names, both must hold.
        dry_run: only count.

    Raises:
        NotFound: if a name is not there; nothing is forgotten then.
        InvalidInput: if neither ``names`` nor ``where`` is given.
        Locked: if another process collects, forgets or backs up, or works on the index for long.
            What was marked stays unreachable and is erased by the next ``forget`` or ``resume``.
    """
    check_namespace(namespace)
    if names is None and where is None:
        raise InvalidInput("nothing says what to forget: give names or a filter")
    wanted = None if names is None else list(dict.fromkeys(names))
    if dry_run:
        with store.sessions.reading() as session:
            chosen = _chosen(session, namespace, wanted, where)
            kin = derived(session, [row.id for row in chosen])
            versions = _versions(session, chosen + kin)
            return _receipt(store, namespace, _marked(0, chosen, kin), versions, dry_run=True)
    store.check_writable()
    with store.housekeeping(WAIT_S):
        with store.sessions.writing() as session:
            first = tick(session, 0)
            chosen = _chosen(session, namespace, wanted, where)
            kin = derived(session, [row.id for row in chosen])
            seq = _mark(session, chosen + kin)
            marked = _marked(seq or first.seq - 1, chosen, kin)
            versions = _versions(session, chosen + kin)
        store.on_step("forget_marked")
        return _erase(store, namespace, marked, versions)


def unfinished(store: Store) -> int:
    """How many document versions and namespaces wait for an erasure that was broken off."""
    with store.sessions.reading() as session:
        return len(_flagged(session)) + len(list(session.scalars(select(ErasureTable.namespace))))


def resume(store: Store) -> bool:
    """Finish erasures that were broken off; whether there were any. Errors as for ``forget``."""
    store.check_writable()
    if not unfinished(store):
        return False
    with store.housekeeping(WAIT_S):
        _erase(store, "", _Marked(0, [], 0), [])
    return True


def _chosen(
    session: Session, namespace: str, names: Sequence[str] | None, where: Where
) -> list[DocumentTable]:
    """The newest stored version of every chosen name, deleted or not."""
    query = select(DocumentTable).where(
        DocumentTable.namespace == namespace,
        DocumentTable.state != "retired",
        DocumentTable.forget.is_(False),
    )
    filter = as_filter(where)
    if filter is not None:
        query = query.where(condition(filter))
    query = query.order_by(DocumentTable.version)
    if names is None:
        return list({row.name: row for row in session.scalars(query)}.values())
    found = []
    for name in names:
        rows = list(session.scalars(query.where(DocumentTable.name == name)))
        if not rows:
            raise no_document(namespace, name)
        found.append(rows[-1])
    return found


def _mark(session: Session, rows: Sequence[DocumentTable]) -> int:
    """Take documents out of every answer and mark all their versions; the last change's number."""
    first = tick(session, len(rows))
    for i, row in enumerate(rows):
        moment = Moment(first.seq + i, first.at)
        if row.state == "active":
            withdraw(session, row, "deleted", moment.seq)
        note(session, moment, "forget", row)
        same_name = DocumentTable.namespace == row.namespace, DocumentTable.name == row.name
        session.execute(update(DocumentTable).where(*same_name).values(forget=True))
    return first.seq + len(rows) - 1


def _marked(seq: int, chosen: Sequence[DocumentTable], kin: Sequence[DocumentTable]) -> _Marked:
    return _Marked(seq, [(row.namespace, row.name) for row in (*chosen, *kin)], len(kin))


def _versions(session: Session, rows: Sequence[DocumentTable]) -> list[int]:
    """Passages of every version of the names."""
    found: list[int] = []
    for row in rows:
        query = select(DocumentTable.passages).where(
            DocumentTable.namespace == row.namespace, DocumentTable.name == row.name
        )
        found += session.scalars(query)
    return found


def _erase(store: Store, namespace: str, marked: _Marked, versions: list[int]) -> Receipt:
    """Steps 2 to 7, for everything that is marked; each may be repeated."""
    with store.sessions.reading() as session:
        ids = _flagged(session)
        samples = residue.take(session, store.weights, ids)
        files = purge.files_of(session, ids)
    moved = [row for file in sorted(files) for row in rewrite(store, file, without=ids).values()]
    kept = {row.file for row in moved}
    _purge(store, ids, files - kept)
    unlink_unused(store, 0)
    _clear_quarantine(store)
    with store.sessions.reading() as session:
        spaces = list(session.scalars(select(ErasureTable.namespace)))
        residue.drop_kept(session, samples, store.weights)
    for space in spaces:
        store.applier.rebuild(space, WAIT_S)
    clear_index(store, 0)
    store.on_step("forget_indexed")
    store.sessions.truncate_log()
    if not store.sessions.is_sqlite:
        store.sessions.vacuum()  # rows removed lie in its tables until then
    found = residue.scan(store.home, samples)
    if any(path.name.startswith(store.paths.catalog.name) for path in found):
        store.sessions.vacuum()
        found = residue.scan(store.home, samples)
    store.on_step("forget_searched")
    if not found:
        with store.sessions.writing() as session:
            session.execute(delete(ErasureTable))
    searched = list(residue.files(store.home))
    receipt = _receipt(store, namespace, marked, versions)
    return replace(
        receipt,
        files_rewritten=len(kept),
        searched_files=len(searched),
        searched_bytes=sum(_size(path) for path in searched),
        samples=len(samples.needles),
        residue=tuple(str(path.relative_to(store.home)) for path in found),
    )


def _purge(store: Store, ids: Sequence[int], files: set[str]) -> None:
    """Take the marked versions out of the catalog; no file stays because a row can't be read."""
    with store.sessions.writing() as session:
        moment = tick(session, 0)
        names = session.execute(
            select(DocumentTable.namespace, DocumentTable.name)
            .where(DocumentTable.id.in_(ids))
            .distinct()
        ).all()
        for row in names:
            forget_name(session, row.namespace, row.name)
            session.merge(ErasureTable(namespace=row.namespace, seq=moment.seq))
        purge.remove(session, ids)
        session.flush()
        lost = [file for file in sorted(files) if purge.rows_in(session, file)]
        purge.mark_damaged(session, lost)
    for file in lost:  # rows that can't be read could not be moved, and must not keep the others
        store.weights.remove(file)
    store.on_step("forget_purged")


def _flagged(session: Session) -> list[int]:
    return list(session.scalars(select(DocumentTable.id).where(DocumentTable.forget)))


def _clear_quarantine(store: Store) -> None:
    with storage_failures(f"folder {store.paths.quarantine}"), suppress(FileNotFoundError):
        shutil.rmtree(store.paths.quarantine)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _receipt(
    store: Store,
    namespace: str,
    marked: _Marked,
    versions: Sequence[int],
    *,
    dry_run: bool = False,
) -> Receipt:
    return Receipt(
        seq=marked.seq,
        namespace=namespace,
        names=tuple(name_hash(*name) for name in marked.names),
        documents=len(marked.names),
        versions=len(versions),
        passages=sum(versions),
        derived=marked.derived,
        files_rewritten=0,
        searched_files=0,
        searched_bytes=0,
        samples=0,
        residue=(),
        dry_run=dry_run,
    )
