"""Changes of the index that are committed but not yet applied, and which generation is read.

A batch of changes is cleared by exactly the numbers that were fetched: on PostgreSQL a smaller
number may be committed after a larger one. What is done for a passage follows from what it is now,
not from the order of the changes: put if its document is active, else delete. So applying a batch
again, or half of it, does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from adapterdb.store.passages import CHUNK, IndexRows, index_query, index_rows
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import GenerationTable, OutboxTable, PassageTable


class Pending(NamedTuple):
    """State of a namespace's index.

    Args:
        generation: the one to read; 0 if none was built yet.
        changed: ids of passages whose change is pending.
    """

    generation: int
    changed: list[int]


class Batch(NamedTuple):
    """Changes to apply together: outbox numbers, rows to put, passage ids to delete."""

    seqs: list[int]
    puts: IndexRows
    deletes: list[int]


class Outbox:
    """Pending index changes in SQL."""

    def __init__(self, sessions: Sessions, dimension: int) -> None:
        self._sessions = sessions
        self._dimension = dimension

    def pending(self, namespace: str) -> Pending:
        """Where the index of ``namespace`` stands."""
        with self._sessions.reading() as session:
            return _pending(session, namespace)

    def members(self, namespace: str) -> tuple[Pending, set[int]]:
        """The same, and the passages that the index should hold, of one moment."""
        with self._sessions.reading() as session:
            found = session.scalars(index_query(namespace).with_only_columns(PassageTable.id))
            return _pending(session, namespace), set(found)

    def sound(self, namespace: str) -> set[int]:
        """Ids of the active passages that are as they were stored; reads every one."""
        query = index_query(namespace).execution_options(yield_per=CHUNK)
        with self._sessions.reading() as session:
            parts = session.execute(query).partitions()
            return {i for part in parts for i in index_rows(part, self._dimension).ids}

    def namespaces(self) -> list[str]:
        """Namespaces with pending changes."""
        with self._sessions.reading() as session:
            return sorted(session.scalars(select(OutboxTable.namespace).distinct()))

    def indexed(self) -> dict[str, int]:
        """Every namespace that has an index, and its generation."""
        query = select(GenerationTable.namespace, GenerationTable.number)
        with self._sessions.reading() as session:
            return {row.namespace: row.number for row in session.execute(query)}

    def count(self, namespace: str | None = None) -> int:
        """How many changes are pending, of ``namespace`` or of all."""
        query = select(func.count()).select_from(OutboxTable)
        if namespace is not None:
            query = query.where(OutboxTable.namespace == namespace)
        with self._sessions.reading() as session:
            return session.scalar(query) or 0

    def fetch(self, namespace: str) -> Batch:
        """The oldest changes, at most 5,000."""
        query = (
            select(OutboxTable.seq, OutboxTable.passage_id)
            .where(OutboxTable.namespace == namespace)
            .order_by(OutboxTable.seq)
            .limit(CHUNK)
        )
        with self._sessions.reading() as session:
            changes = session.execute(query).all()
            ids = {passage_id for _, passage_id in changes}
            active = index_query(namespace).where(PassageTable.id.in_(ids))
            puts = index_rows(session.execute(active).all(), self._dimension)
        return Batch([seq for seq, _ in changes], puts, sorted(ids - set(puts.ids)))

    def clear(self, seqs: Sequence[int]) -> None:
        """Forget these changes: they are applied."""
        with self._sessions.writing() as session:
            for at in range(0, len(seqs), CHUNK):
                chunk = seqs[at : at + CHUNK]
                session.execute(delete(OutboxTable).where(OutboxTable.seq.in_(chunk)))

    @contextmanager
    def snapshot(self, namespace: str) -> Iterator[tuple[list[int], Iterator[IndexRows]]]:
        """What a new generation must hold, of one moment, and the changes that it covers."""
        query = index_query(namespace).order_by(PassageTable.id)
        with self._sessions.reading() as session:
            seqs = select(OutboxTable.seq).where(OutboxTable.namespace == namespace)
            covered = list(session.scalars(seqs))
            found = session.execute(query.execution_options(yield_per=CHUNK))
            yield covered, (index_rows(part, self._dimension) for part in found.partitions())

    def set_generation(self, namespace: str, number: int, seqs: Sequence[int]) -> None:
        """From now on generation ``number`` is read; the changes it covers are applied."""
        with self._sessions.writing() as session:
            chosen = GenerationTable.namespace == namespace
            session.execute(delete(GenerationTable).where(chosen))
            session.execute(insert(GenerationTable).values(namespace=namespace, number=number))
            for at in range(0, len(seqs), CHUNK):
                chunk = seqs[at : at + CHUNK]
                session.execute(delete(OutboxTable).where(OutboxTable.seq.in_(chunk)))


def _pending(session: Session, namespace: str) -> Pending:
    generation = session.get(GenerationTable, namespace)
    changed = select(OutboxTable.passage_id).where(OutboxTable.namespace == namespace).distinct()
    return Pending(generation.number if generation else 0, list(session.scalars(changed)))
