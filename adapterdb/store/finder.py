"""Finds passages: asks the index, adds what it doesn't hold yet, and believes only SQL.

Every hit is joined back to its row in SQL, with namespace, state and filter checked there, so that
a stale or damaged index can at worst miss something. Filters are resolved to ids first and handed
to the index (never applied to its results); up to ``EXACT_PASSAGES`` are scored without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adapterdb.errors import InvalidInput
from adapterdb.store import exact
from adapterdb.store.applier import Applier
from adapterdb.store.index import Found, Index, IndexFailed
from adapterdb.store.outbox import Pending
from adapterdb.store.passages import IndexRows, Passages, Scope
from adapterdb.store.rows import Scored, Vector

logger = logging.getLogger(__name__)

EXACT_PASSAGES = 10_000


class Query(Protocol):
    """What is searched for, and how it is scored."""

    def ask(self, namespace: str, generation: int, n: int, ids: Sequence[int] | None) -> Found:
        """The index's best ``n`` (among ``ids``), some of which may be stale."""

    def score(self, batches: Iterable[IndexRows], n: int) -> Found:
        """The best ``n`` of these rows, exactly."""

    def settle(self, found: Found, changed: Sequence[int]) -> Found:
        """The index's hits together with passages it doesn't hold yet, best first."""


class Finder:
    """Searches over one store.

    Args:
        dimension: D, numbers in a vector.
    """

    def __init__(self, passages: Passages, index: Index, applier: Applier, dimension: int) -> None:
        self._passages = passages
        self._index = index
        self._applier = applier
        self._dimension = dimension

    def by_vector(self, scope: Scope, vector: Vector, n: int) -> list[Scored]:
        """The ``n`` passages with the largest cosine; none for a vector without a direction."""
        unit = self.unit(vector)
        if unit is None:
            return []
        query = _VectorQuery(self._index, self._passages, unit)
        if scope.as_of is not None:
            return self._exactly(scope, n, query)  # the index holds what is found now
        ids = None if scope.where is None else self._passages.ids(scope)
        if ids is not None and len(ids) <= EXACT_PASSAGES:
            return self._exactly(scope, n, query)
        return self._find(scope, n, ids, query)

    def by_text(self, scope: Scope, text: str, n: int) -> list[Scored]:
        """The ``n`` passages with the largest BM25 score; none if no word is found."""
        query = _TextQuery(self._index, self._passages, text)
        if scope.as_of is not None:
            return self._exactly(scope, n, query)
        ids = None if scope.where is None else self._passages.ids(scope)
        return self._find(scope, n, ids, query)

    def similarities(
        self, vector: Vector, ids: Sequence[int], as_of: int | None = None
    ) -> dict[int, float]:
        """Exact cosines of the passages found among ``ids``."""
        unit = self.unit(vector)
        rows = self._passages.some(ids, as_of)
        cosines = np.zeros(len(rows.ids)) if unit is None else rows.vectors @ unit
        return dict(zip(rows.ids, map(float, cosines), strict=True))

    def unit(self, vector: Vector) -> Vector | None:
        """``vector`` at length 1, or None if it is zero or not finite."""
        array = np.asarray(vector, np.float32)
        if array.shape != (self._dimension,):
            raise InvalidInput(
                f"the vector has shape {array.shape}; vectors here are ({self._dimension},)"
            )
        length = float(np.linalg.norm(array.astype(np.float64)))
        return array / np.float32(length) if np.isfinite(length) and length > 0 else None

    def _find(self, scope: Scope, n: int, ids: Sequence[int] | None, query: Query) -> list[Scored]:
        """Hits of the index and of what is pending; of SQL alone where the index can't answer."""
        if ids is not None and not ids:
            return []
        state = self._applier.ready(scope.namespace)
        if not state.generation:
            return self._exactly(scope, n, query)
        try:
            state, found = self._ask(scope.namespace, state, n, ids, query)
        except IndexFailed as error:
            logger.warning("searching the catalog instead: %s", error)
            self._applier.mend(scope.namespace, state.generation)
            return self._exactly(scope, n, query)
        hits = self._rows(scope, query.settle(found, state.changed), n)
        if len(hits) < n and len(found) == n + len(state.changed):
            logger.warning("the index of namespace %r holds rows that are gone", scope.namespace)
            return self._exactly(scope, n, query)
        return hits

    def _ask(
        self, namespace: str, state: Pending, n: int, ids: Sequence[int] | None, query: Query
    ) -> tuple[Pending, Found]:
        """The index's answer, and the state it is of.

        If the first attempt fails, another process may have replaced the table: its place is
        looked up and opened afresh once.
        """
        try:  # as many more as may turn out to be stale
            count = n + len(state.changed)
            return state, query.ask(namespace, state.generation, count, ids)
        except IndexFailed:
            state = self._applier.state(namespace)
            self._index.reopen(namespace, state.generation)
            count = n + len(state.changed)
            return state, query.ask(namespace, state.generation, count, ids)

    def _exactly(self, scope: Scope, n: int, query: Query) -> list[Scored]:
        """The answer from SQL alone."""
        return self._rows(scope, query.score(self._passages.scan(scope), n), n)

    def _rows(self, scope: Scope, found: Found, n: int) -> list[Scored]:
        """The hits that SQL confirms, in their order."""
        ids = [i for i, _ in found]
        rows = {row.passage_id: row for row in self._passages.rows(scope, ids)}
        return [Scored(rows[i], score) for i, score in found if i in rows][:n]


@dataclass(frozen=True)
class _VectorQuery:
    index: Index
    passages: Passages
    unit: Vector

    def ask(self, namespace: str, generation: int, n: int, ids: Sequence[int] | None) -> Found:
        return self.index.nearest(namespace, generation, self.unit, n, ids)

    def score(self, batches: Iterable[IndexRows], n: int) -> Found:
        return exact.nearest(self.unit, batches, n)

    def settle(self, found: Found, changed: Sequence[int]) -> Found:
        # scored anew from SQL: exact, and bits flipped in the index can't show
        ids = list({i for i, _ in found} | set(changed))
        return self.score([self.passages.some(ids)], len(ids))


@dataclass(frozen=True)
class _TextQuery:
    index: Index
    passages: Passages
    text: str

    def ask(self, namespace: str, generation: int, n: int, ids: Sequence[int] | None) -> Found:
        return self.index.match(namespace, generation, self.text, n, ids)

    def score(self, batches: Iterable[IndexRows], n: int) -> Found:
        return exact.match(self.text, batches, n)

    def settle(self, found: Found, changed: Sequence[int]) -> Found:
        if not changed:
            return found
        pending = self.score([self.passages.some(changed)], len(changed))
        merged = dict(found) | dict(pending)
        return sorted(merged.items(), key=lambda entry: (-entry[1], entry[0]))
