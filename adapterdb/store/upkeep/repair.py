"""Mends what ``check`` finds, as far as it can be mended from what the home holds.

Nothing is deleted: files that are taken away go into ``quarantine/<code>/``. Rows of a damaged file
that can still be read are copied to a new one; deltas whose row is lost are marked, and ingesting
their document makes it again. The index is built anew from SQL. A catalog that the database itself
calls damaged is not touched: a backup is.

Each step is one transaction or may be repeated, so that a repair that is killed is finished by the
next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.orm import Session

from adapterdb.store import purge
from adapterdb.store.catalog import row_ref
from adapterdb.store.changes import tick
from adapterdb.store.damage import as_made, find_rows, lose_rows, make_again
from adapterdb.store.locks import held
from adapterdb.store.tables import (
    WITHDRAWN,
    ClockTable,
    DeltaTable,
    DocumentTable,
    LineageTable,
    OutboxTable,
    PassageTable,
    WeightFileTable,
)
from adapterdb.store.upkeep import catalog_check, file_check, index_check
from adapterdb.store.upkeep.check import check
from adapterdb.store.upkeep.findings import Finding, Repaired
from adapterdb.store.upkeep.forget import resume
from adapterdb.store.upkeep.gc import WAIT_S, rewrite
from adapterdb.store.upkeep.quarantine import keep, take_away
from adapterdb.store.versions import active_documents, delete_documents, withdraw

if TYPE_CHECKING:
    from adapterdb.store.store import Store

STEPS = ("quarantined", "repaired")
AGAIN = "marked: ingesting the document makes it again"


def repair(store: Store) -> list[Repaired]:
    """Mend what a deep check finds in the home of ``store``; what was done.

    Safe beside other work on the home. What remains afterwards, ``check`` says.

    Args:
        store: open for writing.

    Raises:
        Locked: if another process collects, forgets, backs up or repairs for over a minute.
        StorageFailed: if the home can't be written; run it again then.
    """
    store.check_writable()
    if any(catalog_check.database(store, deep=True)):
        return []  # whatever was written into it could make it worse
    done = _step(store, _clock(store))
    if resume(store):
        done += _step(store, [Repaired("erasure_pending", "an erasure", "finished")])
    with store.housekeeping(WAIT_S):
        found = check(store, deep=True)
        for codes, mend in _MENDS:
            for finding in found:
                if finding.code in codes and finding.repairable:
                    done += _step(store, mend(store, finding))
        for tidy in (_leftovers, _outbox, _indexes, _folders, _reserve):
            done += _step(store, tidy(store))
    return done


def _step(store: Store, acts: Iterator[Repaired] | list[Repaired]) -> list[Repaired]:
    done = list(acts)
    if done:
        store.on_step("repaired")
    return done


# the catalog


def _clock(store: Store) -> Iterator[Repaired]:
    """Set the clock to the last change; everything that writes needs it."""
    for finding in list(catalog_check.rows(store)):
        if finding.code != "clock":
            continue
        with store.sessions.writing() as session:
            last = catalog_check.last_change(session)
            if session.scalar(select(ClockTable.seq)) is None:
                session.execute(insert(ClockTable).values(id=1, seq=last, at="", horizon=0))
            behind = update(ClockTable).where(ClockTable.seq < last)
            session.execute(behind.values(seq=last))
        yield Repaired("clock", finding.what, f"set to {last}")


def _stuck(store: Store, finding: Finding) -> Iterator[Repaired]:
    with store.sessions.writing() as session:
        tick(session, 0)
        seqs = [seq for seq, name in catalog_check.stuck(session) if name == finding.namespace]
        for at in range(0, len(seqs), purge.CHUNK):
            chunk = seqs[at : at + purge.CHUNK]
            session.execute(delete(OutboxTable).where(OutboxTable.seq.in_(chunk)))
    yield Repaired(finding.code, finding.what, "removed")


def _texts(store: Store, finding: Finding) -> Iterator[Repaired]:
    """Put back texts that are proven by their checksums; have the rest made again."""
    with store.sessions.writing() as session:
        tick(session, 0)
        document = session.get(DocumentTable, int(finding.id))
        if document is None:
            return
        proven = catalog_check.restored(session, document)
        passages = catalog_check.passages_of(session, document.id)
        if "document" in proven:
            document.text = proven["document"]
            proven |= catalog_check.restored(session, document)
        for row in passages:
            row.text = proven.get(str(row.id), row.text)
        session.flush()
        wrong = catalog_check.text_problems(document, passages)
        if wrong:
            make_again(session, [document.id])
        elif _counts_agree(session, document):
            as_made(session, document.id)
        active = document.state == "active"
        if active and proven:  # the index did not get what was damaged
            session.add_all(
                OutboxTable(namespace=document.namespace, op="put", passage_id=row.id)
                for row in passages
            )
    if proven:
        yield Repaired(finding.code, finding.what, f"{len(proven)} texts put back")
    if wrong:
        yield Repaired(finding.code, finding.what, AGAIN)


def _counts(store: Store, finding: Finding) -> Iterator[Repaired]:
    if finding.id:
        with store.sessions.writing() as session:
            tick(session, 0)
            make_again(session, [int(finding.id)])
        yield Repaired(finding.code, finding.what, AGAIN)
        return
    with store.sessions.writing() as session:
        tick(session, 0)
        query = active_documents(finding.namespace).where(DocumentTable.name == finding.document)
        rows = list(session.scalars(query.order_by(DocumentTable.version)))
        for row, later in pairwise(rows):
            withdraw(session, row, "retired", later.seq)
    yield Repaired(finding.code, finding.what, "the earlier ones retired")


def _derived(store: Store, finding: Finding) -> Iterator[Repaired]:
    """Withdraw what was made from something deleted, as deleting that would have done."""
    with store.sessions.writing() as session:
        query = (
            active_documents(None)
            .join(PassageTable, PassageTable.document_id == DocumentTable.id)
            .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
            .where(DeltaTable.id == finding.id)
        )
        tick(session, 0)
        row = session.scalar(query)
        delete_documents(session, [] if row is None else [row])
        there = select(DeltaTable.id)
        gone = or_(LineageTable.child.not_in(there), LineageTable.parent.not_in(there))
        session.execute(delete(LineageTable).where(gone))
    done = "the note removed" if row is None else "deleted, as what it was made from"
    yield Repaired(finding.code, finding.what, done)


def _prototype(store: Store, finding: Finding) -> Iterator[Repaired]:
    """Drop what can be computed from the row again."""
    with store.sessions.writing() as session:
        tick(session, 0)
        chosen = update(DeltaTable).where(DeltaTable.id == finding.id)
        session.execute(chosen.values(prototype=None))
    yield Repaired(finding.code, finding.what, "dropped: it is computed when it is needed")


# weight files and rows


def _weight_file(store: Store, finding: Finding) -> Iterator[Repaired]:
    """Save the rows that can be read, take the file away, and mark the deltas of the others."""
    name = finding.id
    if store.weights.path(name).exists():
        keep(store, finding.code, store.weights.path(name))
    saved = rewrite(store, name)
    with store.sessions.writing() as session:
        tick(session, 0)
        known = session.get(WeightFileTable, name)
        size_bytes = 0 if known is None else known.size_bytes
        whole = file_check.file_problem(store, name, size_bytes, whole=True) is None
        anew = whole or name in store.claims.standing(session).alive
        lost = [] if anew else _give_up(store, session, name)
    done = "written anew" if anew else f"{len(saved)} rows saved, {len(lost)} deltas {AGAIN}"
    yield Repaired(finding.code, finding.what, done)


def _give_up(store: Store, session: Session, name: str) -> list[str]:
    """Remove a weight file that is kept in quarantine; the deltas that are lost with it."""
    store.weights.remove(name)
    lost = list(session.scalars(select(DeltaTable.id).where(DeltaTable.file == name)))
    lose_rows(session, lost)
    if not lost:
        purge.drop_files(session, [name])
    return lost


def _row(store: Store, finding: Finding) -> Iterator[Repaired]:
    with store.sessions.writing() as session:
        tick(session, 0)
        delta = session.get(DeltaTable, finding.id)
        if delta is None or delta.damaged:
            return
        if file_check.row_problem(store, row_ref(delta)) is None:
            return
        lose_rows(session, [delta.id])
    yield Repaired(finding.code, finding.what, AGAIN)


def _found(store: Store, finding: Finding) -> Iterator[Repaired]:
    """Take the mark off deltas whose rows can be read again."""
    with store.sessions.writing() as session:
        tick(session, 0)
        document = session.get(DocumentTable, int(finding.id))
        if document is None:
            return
        query = (
            select(DeltaTable)
            .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
            .where(PassageTable.document_id == document.id, DeltaTable.damaged)
            .where(DeltaTable.flag != WITHDRAWN)
        )
        rows = {row.id: row_ref(row) for row in session.scalars(query)}
        good = [i for i, ref in rows.items() if file_check.row_problem(store, ref) is None]
        find_rows(session, good)
        passages = catalog_check.passages_of(session, document.id)
        wrong = catalog_check.text_problems(document, passages)
        if not wrong and _counts_agree(session, document):
            as_made(session, document.id)
    yield Repaired(finding.code, finding.what, f"{len(good)} deltas in use again")


def _counts_agree(session: Session, document: DocumentTable) -> bool:
    query = (
        select(DeltaTable.id)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .where(PassageTable.document_id == document.id)
    )
    passages = len(catalog_check.passages_of(session, document.id))
    return document.passages == passages == len(list(session.scalars(query)))


def _leftovers(store: Store) -> list[Repaired]:
    """Take away what dead writers left, and bury them."""
    done = []
    with store.sessions.writing() as session:
        tick(session, 0)  # nobody claims or names a file meanwhile
        found = file_check.leftovers(store, session)
        for code, paths in (
            ("orphan_file", found.orphan_file),
            ("stale_staging", found.stale_staging),
        ):
            for path in paths:
                place = take_away(store, code, path).relative_to(store.home)
                done.append(Repaired(code, path.name, f"moved to {place}"))
        store.claims.bury(session, found.standing)
    writers = sorted(found.standing.writers)
    return done + [Repaired("abandoned_claim", writer, "buried") for writer in writers]


# the index


def _outbox(store: Store) -> Iterator[Repaired]:
    for namespace in store.outbox.namespaces():
        count = store.apply_outbox(namespace, timeout_s=WAIT_S)
        if count:
            what = f"namespace {namespace!r}: {count} index changes"
            yield Repaired("outbox_pending", what, "applied")


def _indexes(store: Store) -> Iterator[Repaired]:
    """Build anew what still differs; applying what was pending may have mended some."""
    found = list(index_check.index(store, deep=True))
    for namespace in sorted({finding.namespace for finding in found}):
        store.applier.rebuild(namespace, WAIT_S)
        for finding in found:
            if finding.namespace == namespace:
                yield Repaired(finding.code, finding.what, "built anew from the catalog")


def _folders(store: Store) -> Iterator[Repaired]:
    for folder in sorted(store.paths.index.glob("*/")):
        lock = store.paths.locks / f"index-{folder.name}.lock"
        with held(lock, f"another process works on the index in {folder}", WAIT_S):
            for path in index_check.unread(store, folder):
                code = index_check.unread_code(path)
                place = take_away(store, code, path).relative_to(store.home)
                yield Repaired(code, str(path.relative_to(store.home)), f"moved to {place}")


def _reserve(store: Store) -> Iterator[Repaired]:
    before = store.reserve.held_bytes
    if store.reserve.fill() and store.reserve.held_bytes > before:
        yield Repaired("reserve", "space for deleting on a full disk", "set aside")


_MENDS: tuple[tuple[set[str], Callable[[Store, Finding], Iterator[Repaired]]], ...] = (
    ({"outbox_stuck"}, _stuck),
    ({"lost_file", "bad_size", "sha_mismatch"}, _weight_file),
    ({"bad_row"}, _row),
    ({"damaged"}, _found),
    ({"row_crc"}, _texts),
    ({"document_counts"}, _counts),
    ({"derived_stale"}, _derived),
    ({"prototype"}, _prototype),
)
