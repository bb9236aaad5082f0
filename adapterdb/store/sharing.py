"""Rows that the deltas of a cluster share, and their withdrawal once one of their makers is gone.

A cluster's row is made from the passages that represent it (``own``) and serves all members. Its
members are documents of one namespace. Whoever takes a representative out of the home withdraws the
row from the others: it holds something of what is gone. They are passed over, keep their documents,
and get new deltas with the next ingest. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from adapterdb.store.damage import lose_rows
from adapterdb.store.tables import WITHDRAWN, DeltaTable, DocumentTable, PassageTable

CHUNK = 5000


class Member(NamedTuple):
    """A delta of a cluster, and the document version it belongs to."""

    id: str
    file: str
    offset: int
    own: bool
    document_id: int
    namespace: str
    name: str
    state: str

    @property
    def row(self) -> tuple[str, int, str]:
        """What it shares: file and offset, within its namespace."""
        return self.file, self.offset, self.namespace


def partners(session: Session, document_ids: Iterable[int]) -> list[Member]:
    """Deltas of other versions on rows that some of these versions alone stand for.

    A version brought back by a rollback has the text of the one it repeats, and stands for it.
    """
    ids = set(document_ids)
    members = list(_members(session, _represented(session, sorted(ids))))
    inside = {(*m.row, m.name) for m in members if m.own and m.document_id in ids}
    outside = {(*m.row, m.name) for m in members if m.own and m.document_id not in ids}
    rows = {key[:3] for key in inside - outside}
    return [m for m in members if m.document_id not in ids and m.row in rows]


def withdraw_rows(session: Session, document_ids: Iterable[int]) -> int:
    """Let nobody use the rows that these versions represent: they go; how many act no more."""
    found = partners(session, document_ids)
    lose_rows(session, [member.id for member in found])
    for chunk in _chunks([member.id for member in found]):
        lost = update(DeltaTable).where(DeltaTable.id.in_(chunk))
        marked = lost.values(flag=WITHDRAWN, prototype=None)
        session.execute(marked, execution_options={"synchronize_session": False})
    return len(kept(found))


def kept(members: Iterable[Member]) -> list[Member]:
    """Those of versions that are not deleted."""
    return [member for member in members if member.state != "deleted"]


def _represented(session: Session, document_ids: Sequence[int]) -> list[str]:
    """Weight files with rows of clusters that these versions represent."""
    found: set[str] = set()
    for chunk in _chunks(document_ids):
        query = (
            select(DeltaTable.file)
            .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
            .where(
                PassageTable.document_id.in_(chunk), DeltaTable.kind == "cluster", DeltaTable.own
            )
        )
        found.update(session.scalars(query))
    return sorted(found)


def _members(session: Session, files: Sequence[str]) -> Iterator[Member]:
    """All deltas of clusters whose rows lie in these files."""
    query = (
        select(
            DeltaTable.id,
            DeltaTable.file,
            DeltaTable.offset,
            DeltaTable.own,
            DocumentTable.id,
            DocumentTable.namespace,
            DocumentTable.name,
            DocumentTable.state,
        )
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(DeltaTable.kind == "cluster")
        .order_by(DeltaTable.id)
    )
    for chunk in _chunks(files):
        for row in session.execute(query.where(DeltaTable.file.in_(chunk))):
            yield Member(*row)


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), CHUNK):
        yield items[at : at + CHUNK]
