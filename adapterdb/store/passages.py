"""Passages in SQL: the rows behind hits, and the vectors and texts they are scored by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select

from adapterdb.records import DeltaKind
from adapterdb.store.catalog import row_ref
from adapterdb.store.conditions import condition
from adapterdb.store.filters import Filter
from adapterdb.store.rows import PassageRow
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import DeltaTable, DocumentTable, PassageTable

CHUNK = 5000  # ids in one statement: databases bound the number of parameters


class IndexRows(NamedTuple):
    """What the index holds of passages: ids, unit vectors float32 ``(n, D)``, texts."""

    ids: list[int]
    vectors: NDArray[np.float32]
    texts: list[str]


class Passages:
    """Queries over passages. A passage counts as active while its document is.

    Args:
        dimension: D, numbers in a vector.
    """

    def __init__(self, sessions: Sessions, dimension: int) -> None:
        self._sessions = sessions
        self._dimension = dimension

    def rows(self, namespace: str, ids: Sequence[int], where: Filter | None) -> list[PassageRow]:
        """The active passages among ``ids`` that belong to ``namespace`` and meet ``where``."""
        query = _within(_rows(), namespace, where)
        with self._sessions.reading() as session:
            return [
                _passage_row(*row)
                for chunk in _chunks(ids)
                for row in session.execute(query.where(PassageTable.id.in_(chunk)))
            ]

    def of_document(self, document_id: int) -> list[PassageRow]:
        """The passages of a document version that is not deleted, in order."""
        query = _rows().where(DocumentTable.id == document_id, DocumentTable.state != "deleted")
        with self._sessions.reading() as session:
            found = session.execute(query.order_by(PassageTable.ordinal))
            return [_passage_row(*row) for row in found]

    def ids(self, namespace: str, where: Filter) -> list[int]:
        """Ids of the active passages whose document meets ``where``."""
        query = select(PassageTable.id).join(
            DocumentTable, DocumentTable.id == PassageTable.document_id
        )
        with self._sessions.reading() as session:
            return list(session.scalars(_within(query, namespace, where)))

    def some(self, ids: Sequence[int]) -> IndexRows:
        """Ids, vectors and texts of the active passages among ``ids``, whatever their namespace."""
        found: list[Any] = []
        with self._sessions.reading() as session:
            for chunk in _chunks(ids):
                query = index_query(None).where(PassageTable.id.in_(chunk))
                found += session.execute(query)
        return index_rows(found, self._dimension)

    def scan(self, namespace: str, where: Filter | None = None) -> Iterator[IndexRows]:
        """All active passages of ``namespace`` that meet ``where``, in batches, of one moment."""
        query = _within(index_query(None), namespace, where)
        with self._sessions.reading() as session:
            for part in session.execute(query.execution_options(yield_per=CHUNK)).partitions():
                yield index_rows(part, self._dimension)

    def everything(self, namespace: str) -> IndexRows:
        """All active passages of ``namespace``."""
        with self._sessions.reading() as session:
            found = session.execute(index_query(namespace)).all()
        return index_rows(found, self._dimension)


def index_query(namespace: str | None) -> Select[int, bytes, str]:
    """What the index holds of active passages, of ``namespace`` or of all."""
    query = (
        select(PassageTable.id, PassageTable.vector, PassageTable.text)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(DocumentTable.state == "active")
    )
    return query if namespace is None else query.where(DocumentTable.namespace == namespace)


def index_rows(found: Sequence[Any], dimension: int) -> IndexRows:
    """Rows of ``index_query`` as arrays."""
    vectors = np.frombuffer(b"".join(row[1] for row in found), "<f4").reshape(-1, dimension)
    return IndexRows([row[0] for row in found], vectors, [row[2] for row in found])


def _rows() -> Select[*tuple[Any, ...]]:
    """Passages, documents and deltas without the large columns that hits don't show."""
    return (
        select(
            PassageTable.id,
            PassageTable.ordinal,
            PassageTable.start,
            PassageTable.end,
            PassageTable.text,
            PassageTable.tokens,
            DocumentTable.namespace,
            DocumentTable.name,
            DocumentTable.version,
            DocumentTable.title,
            DeltaTable,
        )
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
    )


def _within(
    query: Select[*tuple[Any, ...]], namespace: str, where: Filter | None
) -> Select[*tuple[Any, ...]]:
    query = query.where(DocumentTable.namespace == namespace, DocumentTable.state == "active")
    return query if where is None else query.where(condition(where))


def _passage_row(
    passage_id: int,
    ordinal: int,
    start: int,
    end: int,
    text: str,
    tokens: int,
    namespace: str,
    name: str,
    version: int,
    title: str,
    delta: DeltaTable,
) -> PassageRow:
    return PassageRow(
        passage_id=passage_id,
        delta_id=delta.id,
        kind=cast(DeltaKind, delta.kind),
        namespace=namespace,
        document=name,
        version=version,
        title=title,
        ordinal=ordinal,
        start=start,
        end=end,
        text=text,
        tokens=tokens,
        row=row_ref(delta),
    )


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(ids), CHUNK):
        yield ids[at : at + CHUNK]
