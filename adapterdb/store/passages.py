"""Passages in SQL: the rows behind hits, and the vectors and texts they are scored by."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, Text, func, select
from sqlalchemy import cast as cast_to

from adapterdb.records import DeltaKind
from adapterdb.store.catalog import row_ref
from adapterdb.store.conditions import condition
from adapterdb.store.filters import Filter
from adapterdb.store.prototypes import unsealed
from adapterdb.store.rows import PassageRow
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import DeltaTable, DocumentTable, PassageTable
from adapterdb.store.versions import crc, visible

logger = logging.getLogger(__name__)

WORD_FIELDS = ("description", "tag", "tags")  # of a document: its passages are found by their words
CHUNK = 5000  # ids in one statement: databases bound the number of parameters


class IndexRows(NamedTuple):
    """What the index holds of passages: ids, unit vectors float32 ``(n, D)``, texts.

    A text is what a passage is found by in words: its document's title, description and tags, then
    its own text.
    """

    ids: list[int]
    vectors: NDArray[np.float32]
    texts: list[str]


class Scope(NamedTuple):
    """What a search may find: a namespace, a condition, and the moment to look at (None: now)."""

    namespace: str
    where: Filter | None = None
    as_of: int | None = None


class Passages:
    """Queries over passages. A passage counts as active while its document is.

    What can't be what was stored, by its checksum, is logged and passed over.

    Args:
        dimension: D, numbers in a vector.
    """

    def __init__(self, sessions: Sessions, dimension: int) -> None:
        self._sessions = sessions
        self._dimension = dimension

    def rows(self, scope: Scope, ids: Sequence[int]) -> list[PassageRow]:
        """The passages among ``ids`` that ``scope`` allows."""
        query = _within(_rows(), scope)
        with self._sessions.reading() as session:
            return [
                _passage_row(*row)
                for chunk in _chunks(ids)
                for row in session.execute(query.where(PassageTable.id.in_(chunk)))
                if _intact(row)
            ]

    def of_document(self, document_id: int) -> list[PassageRow]:
        """The passages of a document version that is not deleted, in order."""
        query = _rows().where(DocumentTable.id == document_id, DocumentTable.state != "deleted")
        with self._sessions.reading() as session:
            found = session.execute(query.order_by(PassageTable.ordinal))
            return [_passage_row(*row) for row in found if _intact(row)]

    def ids(self, scope: Scope) -> list[int]:
        """Ids of the passages that ``scope`` allows."""
        query = select(PassageTable.id).join(
            DocumentTable, DocumentTable.id == PassageTable.document_id
        )
        with self._sessions.reading() as session:
            return list(session.scalars(_within(query, scope)))

    def count(self, scope: Scope) -> int:
        """How many passages ``scope`` allows."""
        query = select(func.count(PassageTable.id)).join(
            DocumentTable, DocumentTable.id == PassageTable.document_id
        )
        with self._sessions.reading() as session:
            return session.scalar(_within(query, scope)) or 0

    def some(self, ids: Sequence[int], as_of: int | None = None) -> IndexRows:
        """Ids, vectors and texts of the passages found among ``ids``, whatever their namespace."""
        found: list[Any] = []
        with self._sessions.reading() as session:
            for chunk in _chunks(ids):
                query = index_query(None, as_of).where(PassageTable.id.in_(chunk))
                found += session.execute(query)
        return index_rows(found, self._dimension)

    def scan(self, scope: Scope) -> Iterator[IndexRows]:
        """All passages that ``scope`` allows, in batches, of one state of the catalog."""
        query = _within(index_query(None, scope.as_of), scope)
        with self._sessions.reading() as session:
            for part in session.execute(query.execution_options(yield_per=CHUNK)).partitions():
                yield index_rows(part, self._dimension)

    def everything(self, namespace: str) -> IndexRows:
        """All active passages of ``namespace``."""
        with self._sessions.reading() as session:
            found = session.execute(index_query(namespace)).all()
        return index_rows(found, self._dimension)


def index_query(
    namespace: str | None, as_of: int | None = None
) -> Select[int, bytes, str, int, int, str, str]:
    """What the index holds of passages and their checksums, of ``namespace`` or of all."""
    query = (
        select(
            PassageTable.id,
            PassageTable.vector,
            PassageTable.text,
            PassageTable.text_crc,
            PassageTable.vector_crc,
            DocumentTable.title,
            # as text: fields that are damaged must not end a search
            cast_to(DocumentTable.fields, Text).label("fields"),
        )
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(visible(as_of))
    )
    return query if namespace is None else query.where(DocumentTable.namespace == namespace)


def index_rows(found: Sequence[Any], dimension: int) -> IndexRows:
    """Rows of ``index_query`` as arrays, without those that fail their checksums."""
    kept = [row for row in found if _intact(row) and _vector_is_intact(row, dimension)]
    vectors = np.frombuffer(b"".join(row.vector for row in kept), "<f4").reshape(-1, dimension)
    return IndexRows([row.id for row in kept], vectors, [indexed_text(row) for row in kept])


def indexed_text(row: Any) -> str:
    """The text that a row of ``index_query`` is found by."""
    try:
        fields = json.loads(row.fields)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        logger.warning("the fields of passage %d are damaged and passed over", row.id)
        fields = {}
    parts: list[Any] = [row.title]
    for name in WORD_FIELDS:
        value = fields.get(name, "")
        parts += value if isinstance(value, list) else [value]
    return "\n".join([part for part in parts if isinstance(part, str) and part] + [row.text])


def _intact(row: Any) -> bool:
    return _same(row.id, row.text, row.text_crc)


def _vector_is_intact(row: Any, dimension: int) -> bool:
    """Also of this home's length: one of another would spoil the whole array."""
    return _same(row.id, row.vector, row.vector_crc) and len(row.vector) == 4 * dimension


def _same(passage_id: int, data: str | bytes, want: int) -> bool:
    if crc(data) == want:
        return True
    logger.warning("passage %d is damaged in the catalog and passed over", passage_id)
    return False


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
            PassageTable.text_crc,
            DocumentTable.namespace,
            DocumentTable.name,
            DocumentTable.version,
            DocumentTable.title,
            DeltaTable,
        )
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
    )


def _within(query: Select[*tuple[Any, ...]], scope: Scope) -> Select[*tuple[Any, ...]]:
    query = query.where(DocumentTable.namespace == scope.namespace, visible(scope.as_of))
    return query if scope.where is None else query.where(condition(scope.where))


def _passage_row(
    passage_id: int,
    ordinal: int,
    start: int,
    end: int,
    text: str,
    tokens: int,
    _crc: int,
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
        shared_start=delta.meta_init_fingerprint,
        damaged=delta.damaged,
        prototype=unsealed(delta.prototype),
    )


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(ids), CHUNK):
        yield ids[at : at + CHUNK]
