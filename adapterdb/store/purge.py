"""Takes document versions out of the catalog for good, and finds the weight files left unused.

All of it happens inside writing transactions of others: ``gc`` purges what retention no longer
keeps, ``forget`` what must be erased. A purged version leaves its entry in the log of changes and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from adapterdb.config import RetentionConfig
from adapterdb.store.catalog import row_ref
from adapterdb.store.damage import lose_rows
from adapterdb.store.headers import FileShape
from adapterdb.store.rows import RowRef
from adapterdb.store.sharing import withdraw_rows
from adapterdb.store.tables import (
    WITHDRAWN,
    ChangeTable,
    DeltaTable,
    DocumentTable,
    FieldTable,
    InfoTable,
    LineageTable,
    OutboxTable,
    PassageTable,
    WeightFileTable,
)

CHUNK = 5000


class Usage(NamedTuple):
    """A weight file: its bytes, and those of rows that deltas may use."""

    name: str
    size_bytes: int
    used_bytes: int


def outlived(session: Session, keep: RetentionConfig, now: datetime) -> list[int]:
    """Ids of the document versions that ``keep`` no longer keeps."""
    return [
        *_deleted(session, now - timedelta(days=keep.deleted_days)),
        *_retired(session, keep, now),
    ]


def _deleted(session: Session, before: datetime) -> list[int]:
    """Every version of names whose last deletion was before ``before``."""
    change = aliased(ChangeTable)
    last = (
        select(func.max(change.seq))  # by number: times are for people
        .where(
            change.namespace == DocumentTable.namespace,
            change.name == DocumentTable.name,
            change.op == "delete",
        )
        .scalar_subquery()
    )
    query = (
        select(DocumentTable.id)
        .join(ChangeTable, ChangeTable.seq == last)
        .where(
            DocumentTable.state == "deleted",
            ChangeTable.at <= before.isoformat(timespec="milliseconds"),
        )
    )
    return list(session.scalars(query))


def _retired(session: Session, keep: RetentionConfig, now: datetime) -> list[int]:
    """Replaced versions that are too many or were replaced too long ago."""
    tests = []
    if keep.days is not None:
        before = (now - timedelta(days=keep.days)).isoformat(timespec="milliseconds")
        ended = (
            select(ChangeTable.at)
            .where(ChangeTable.seq == DocumentTable.until_seq)
            .scalar_subquery()
        )
        tests.append(ended <= before)
    if keep.versions is not None:
        later = aliased(DocumentTable)
        count = (
            select(func.count())
            .where(
                later.namespace == DocumentTable.namespace,
                later.name == DocumentTable.name,
                later.state == "retired",
                later.version > DocumentTable.version,
            )
            .scalar_subquery()
        )
        tests.append(count >= keep.versions)
    if not tests:
        return []
    query = select(DocumentTable.id).where(DocumentTable.state == "retired", or_(*tests))
    return list(session.scalars(query))


def horizon(session: Session, ids: Sequence[int]) -> int:
    """The change as of which everything is still found once these versions are gone."""
    found = 0
    for chunk in _chunks(ids):
        query = select(func.max(DocumentTable.until_seq)).where(
            DocumentTable.id.in_(chunk), DocumentTable.state == "retired"
        )
        found = max(found, session.scalar(query) or 0)
    return found


def remove(session: Session, ids: Sequence[int]) -> int:
    """Remove document versions and all that hangs on them; their weight files stay for now.

    Returns:
        How many deltas of other versions act no more, as they shared a cluster's row with these.
    """
    disabled = withdraw_rows(session, ids)
    for chunk in _chunks(ids):
        passages = select(PassageTable.id).where(PassageTable.document_id.in_(chunk))
        deltas = select(DeltaTable.id).where(DeltaTable.passage_id.in_(passages))
        for statement in (
            delete(LineageTable).where(
                or_(LineageTable.child.in_(deltas), LineageTable.parent.in_(deltas))
            ),
            delete(DeltaTable).where(DeltaTable.passage_id.in_(passages)),
            delete(OutboxTable).where(
                OutboxTable.passage_id.in_(passages), OutboxTable.op == "put"
            ),
            delete(PassageTable).where(PassageTable.document_id.in_(chunk)),
            delete(FieldTable).where(FieldTable.document_id.in_(chunk)),
            delete(DocumentTable).where(DocumentTable.id.in_(chunk)),
        ):
            session.execute(statement.execution_options(synchronize_session=False))
    return disabled


def files_of(session: Session, ids: Sequence[int]) -> set[str]:
    """Weight files that hold a row of these versions."""
    found: set[str] = set()
    for chunk in _chunks(ids):
        query = (
            select(DeltaTable.file)
            .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
            .where(PassageTable.document_id.in_(chunk))
        )
        found.update(session.scalars(query))
    return found


def rows_in(session: Session, file: str, *, but_of: Sequence[int] = ()) -> list[RowRef]:
    """The distinct rows of a file that deltas may use, leaving out those of some versions."""
    query = (
        select(DeltaTable, PassageTable.document_id)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .where(DeltaTable.file == file, DeltaTable.flag != WITHDRAWN)
        .order_by(DeltaTable.offset)
    )
    without = set(but_of)
    rows = (delta for delta, document in session.execute(query) if document not in without)
    return list({row.offset: row_ref(row) for row in rows}.values())


def mark_damaged(session: Session, files: Sequence[str]) -> None:
    """Say of deltas in these files that their rows are lost, and let ingest make them again."""
    for chunk in _chunks(files):
        named = select(DeltaTable.id).where(DeltaTable.file.in_(chunk))
        lose_rows(session, list(session.scalars(named)))


def repoint(
    session: Session, moved: Mapping[RowRef, RowRef], shapes: Mapping[str, FileShape]
) -> None:
    """Let deltas name the new places of rows that were copied to other files."""
    for name, shape in shapes.items():
        if session.get(WeightFileTable, name) is None:
            entry = WeightFileTable(name=name, size_bytes=shape.size_bytes, rows=shape.rows)
            session.add(entry)
    session.flush()
    for old, new in moved.items():
        chosen = and_(DeltaTable.file == old.file, DeltaTable.offset == old.offset)
        session.execute(update(DeltaTable).where(chosen).values(file=new.file, offset=new.offset))


def unused(session: Session, claimed: Iterable[str]) -> list[str]:
    """Weight files of the catalog that no delta may use and no writer claims; some may be gone."""
    found = session.scalars(select(WeightFileTable.name).where(~_in_use()))
    return sorted(set(found) - set(claimed) - tensor_files(session))


def named_files(session: Session) -> set[str]:
    """Every weight file the catalog knows."""
    return set(session.scalars(select(WeightFileTable.name))) | tensor_files(session)


def drop_files(session: Session, names: Sequence[str]) -> None:
    """Let the catalog no longer know these files, but for those that deltas still name."""
    named = exists().where(DeltaTable.file == WeightFileTable.name)
    for chunk in _chunks(names):
        session.execute(delete(WeightFileTable).where(WeightFileTable.name.in_(chunk), ~named))


def withdrawn_files(session: Session) -> set[str]:
    """Weight files that deltas name, but none may use: they may be gone."""
    named = exists().where(DeltaTable.file == WeightFileTable.name)
    return set(session.scalars(select(WeightFileTable.name).where(named, ~_in_use())))


def _in_use() -> ColumnElement[bool]:
    """Some delta may use a row of the weight file."""
    return exists().where(DeltaTable.file == WeightFileTable.name, DeltaTable.flag != WITHDRAWN)


def tensor_files(session: Session) -> set[str]:
    """Files that hold the store's shared tensors."""
    query = select(InfoTable.value).where(InfoTable.name.startswith("tensors:", autoescape=True))
    return set(session.scalars(query))


def sparse(session: Session, below: float) -> list[Usage]:
    """Weight files of which a smaller part than ``below`` is still used by deltas."""
    rows = (
        select(DeltaTable.file, DeltaTable.offset, DeltaTable.size_bytes)
        .where(DeltaTable.flag != WITHDRAWN)
        .distinct()  # versions brought back share their rows, and so do clusters
        .subquery()
    )
    query = (
        select(WeightFileTable.name, WeightFileTable.size_bytes, func.sum(rows.c.size_bytes))
        .join(rows, rows.c.file == WeightFileTable.name)
        .group_by(WeightFileTable.name, WeightFileTable.size_bytes)
    )
    usages = (Usage(name, size, int(used)) for name, size, used in session.execute(query))
    return [usage for usage in usages if usage.used_bytes < below * usage.size_bytes]


def _chunks(items: Sequence[int] | Sequence[str]) -> Iterator[Sequence[int] | Sequence[str]]:
    for at in range(0, len(items), CHUNK):
        yield items[at : at + CHUNK]
