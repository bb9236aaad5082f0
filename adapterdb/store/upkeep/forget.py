"""Forgetting: documents made unreachable, then gone from every file the home owns, with a receipt.

    1  one commit: every version of the names, and whatever was derived from them, is deleted and
       marked; rows of clusters that they represent are withdrawn from the other members. From
       here on no answer can come of them, and whatever happens, the rest is finished by the next
       ``forget``, ``resume`` or repair
    2  weight files that hold their rows are written anew without them; other rows keep their bytes
    3  one commit: their rows leave the catalog, other deltas name the new files; SQLite overwrites
       what it frees. In the log a hash takes the place of the name
    4  the old weight files go; so do unfinished and quarantined files
    5  the index is built anew from the catalog, and every earlier folder of it goes
    6  the log of SQLite is emptied
    7  every file of the home is searched for samples of what is gone. A catalog or index in which
       one is found is written anew

Out of reach, and said so in the receipt: backups, exports, answers already given, what other
running processes hold in memory, and copies below the file system (snapshots, worn flash cells).
"""

from __future__ import annotations

import os
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
from adapterdb.store import purge
from adapterdb.store.changes import Moment, forget_name, is_logged, name_hash, note, tick
from adapterdb.store.conditions import condition
from adapterdb.store.failures import storage_failures
from adapterdb.store.filters import Where, as_filter
from adapterdb.store.sharing import kept, partners, withdraw_rows
from adapterdb.store.tables import DocumentTable, ErasureTable
from adapterdb.store.upkeep import residue
from adapterdb.store.upkeep.gc import WAIT_S, clear_index, rewrite, unlink_unused
from adapterdb.store.versions import is_stored, kin, no_document, versions_of, withdraw

if TYPE_CHECKING:
    from adapterdb.store.store import Store

STEPS = ("forget_marked", "forget_purged", "forget_indexed", "forget_searched")  # besides gc's
OUT_OF_REACH = (
    "backups and exports made before",
    "answers already given, and logs of other programs",
    "what other running processes hold in memory, or in removed files they still have open",
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
        derived: documents that went, or lost versions, because their deltas were made from these.
        disabled: deltas of other documents that shared a cluster's row with these, and act no more
            until their documents are ingested again.
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
    disabled: int = 0


@dataclass(frozen=True)
class _Marked:
    """What step 1 marks: versions of the chosen names, versions derived from them, other names.

    ``lost`` are names of which only the log of changes is left; ``disabled`` counts the deltas of
    others that lose their row.
    """

    chosen: Sequence[DocumentTable] = ()
    kin: Sequence[DocumentTable] = ()
    lost: Sequence[str] = ()
    disabled: int = 0

    @property
    def versions(self) -> list[DocumentTable]:
        """All document versions that are marked."""
        return list({row.id: row for row in (*self.chosen, *self.kin)}.values())


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
            marked = _choose(session, namespace, wanted, where)
            return replace(_receipt(namespace, marked, 0), dry_run=True)
    store.check_writable()
    with store.housekeeping(WAIT_S):
        with store.sessions.writing() as session:
            tick(session, 0)
            marked = _choose(session, namespace, wanted, where)
            receipt = _receipt(namespace, marked, _mark(session, namespace, marked))
        store.on_step("forget_marked")
        return _erase(store, receipt)


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
        _erase(store, _receipt("", _Marked(), 0))
    return True


def _choose(session: Session, namespace: str, names: Sequence[str] | None, where: Where) -> _Marked:
    """Everything that must go with the chosen documents, deleted or not; NotFound."""
    query = select(DocumentTable).where(
        DocumentTable.namespace == namespace,
        DocumentTable.state != "retired",
        DocumentTable.forget.is_(False),
    )
    filter = as_filter(where)
    if filter is not None:
        query = query.where(condition(filter))
    found = list(session.scalars(query.order_by(DocumentTable.name, DocumentTable.version)))
    lost = []
    if names is not None:
        found = [row for row in found if row.name in set(names)]
        for name in set(names) - {row.name for row in found}:
            if filter is not None or not is_logged(session, namespace, name):
                raise no_document(namespace, name)
            lost.append(name)
    chosen = [row for row in versions_of(session, found) if not row.forget]
    relatives = [row for row in kin(session, chosen) if not row.forget]
    others = partners(session, [row.id for row in (*chosen, *relatives)])
    return _Marked(chosen, relatives, lost, len(kept(others)))


def _mark(session: Session, namespace: str, marked: _Marked) -> int:
    """Take everything out of every answer and mark it; the number of the last change."""
    groups: dict[tuple[str, str], list[DocumentTable]] = {}
    for row in marked.versions:
        groups.setdefault((row.namespace, row.name), []).append(row)
    first = tick(session, len(groups) + len(marked.lost))
    for i, rows in enumerate(groups.values()):
        moment = Moment(first.seq + i, first.at)
        newest = max(rows, key=lambda row: row.version)
        for row in rows:
            if row.state == "active":
                withdraw(session, row, "deleted", moment.seq)
        ids = DocumentTable.id.in_([row.id for row in rows])
        session.execute(update(DocumentTable).where(ids).values(state="deleted", forget=True))
        note(session, moment, "forget", newest)
    withdraw_rows(session, [row.id for row in marked.versions])
    for i, name in enumerate(marked.lost, len(groups)):
        forget_name(session, namespace, name)
        gone = DocumentTable(namespace=namespace, name=name_hash(namespace, name), version=0)
        note(session, Moment(first.seq + i, first.at), "forget", gone)
        session.merge(ErasureTable(namespace=namespace, seq=first.seq + i))
    return first.seq + len(groups) + len(marked.lost) - 1


def _erase(store: Store, receipt: Receipt) -> Receipt:
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
    places = [store.home, *_catalog_elsewhere(store)]
    searched = residue.search(places, samples)
    if _clean_again(store, searched.found):
        searched = residue.search(places, samples)
    store.on_step("forget_searched")
    if not searched.found:
        with store.sessions.writing() as session:
            session.execute(delete(ErasureTable))
    return replace(
        receipt,
        files_rewritten=len(kept),
        searched_files=searched.files,
        searched_bytes=searched.size_bytes,
        samples=len(samples.needles),
        residue=tuple(os.path.relpath(path, store.home) for path in searched.found),
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
        purge.remove(session, ids)
        for row in names:
            session.merge(ErasureTable(namespace=row.namespace, seq=moment.seq))
            if not is_stored(session, row.namespace, row.name):
                forget_name(session, row.namespace, row.name)
        session.flush()
        lost = [file for file in sorted(files) if purge.rows_in(session, file)]
        purge.mark_damaged(session, lost)
    for file in lost:  # rows that can't be read could not be moved, and must not keep the others
        store.weights.remove(file)
    store.on_step("forget_purged")


def _clean_again(store: Store, found: Sequence[Path]) -> bool:
    """Write anew the catalog, or an index, in which something was found; whether there was any.

    A database leaves copies where it moves rows. The index of another namespace keeps, in parts not
    merged yet, what was deleted there and said the same.
    """
    catalog = any(path.name.startswith(store.sessions.path.name) for path in found)
    if catalog:
        store.sessions.vacuum()
    indexes = [
        namespace
        for namespace, number in store.outbox.indexed().items()
        if any(path.is_relative_to(store.index.place(namespace, number)) for path in found)
    ]
    for namespace in indexes:
        store.applier.rebuild(namespace, WAIT_S)
    if indexes:
        clear_index(store, 0)
    return catalog or bool(indexes)


def _catalog_elsewhere(store: Store) -> list[Path]:
    """The files of an SQLite catalog that does not lie in the home."""
    path = store.sessions.path
    if not store.sessions.is_sqlite or path.resolve().is_relative_to(store.home.resolve()):
        return []
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")]


def _flagged(session: Session) -> list[int]:
    return list(session.scalars(select(DocumentTable.id).where(DocumentTable.forget)))


def _clear_quarantine(store: Store) -> None:
    with storage_failures(f"folder {store.paths.quarantine}"), suppress(FileNotFoundError):
        shutil.rmtree(store.paths.quarantine)


def _receipt(namespace: str, marked: _Marked, seq: int) -> Receipt:
    versions = marked.versions
    own = {(row.namespace, row.name) for row in marked.chosen}
    own |= {(namespace, name) for name in marked.lost}
    relatives = {(row.namespace, row.name) for row in marked.kin} - own
    return Receipt(
        seq=seq,
        namespace=namespace,
        names=tuple(name_hash(*name) for name in sorted(own) + sorted(relatives)),
        documents=len(own) + len(relatives),
        versions=len(versions),
        passages=sum(row.passages for row in versions),
        derived=len(relatives),
        files_rewritten=0,
        searched_files=0,
        searched_bytes=0,
        samples=0,
        residue=(),
        disabled=marked.disabled,
    )
