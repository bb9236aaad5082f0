"""The search index: vectors and texts of active passages in LanceDB. Derived, never the truth.

    lance/<sha256 of the namespace, 16 digits>/g000001/passages.lance

One table for each namespace and generation; a new generation is built beside the old one and then
pointed to in SQL. LanceDB syncs nothing and checks nothing, so its files are summed
(``index_sums``) and any failure here is an ``IndexFailed``, upon which the caller reads SQL and
builds the table again.

Not usable in a forked child: Lance's threads don't survive the fork, and the child may crash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapterdb.errors import AdapterDBError, StorageFailed
from adapterdb.store.failures import storage_failures
from adapterdb.store.folders import bytes_of
from adapterdb.store.index_sums import IndexSums
from adapterdb.store.passages import IndexRows
from adapterdb.store.rows import Vector

TABLE = "passages"
TEXT_INDEX = "text_idx"
OPTIMIZE_EVERY = 64  # versions: each write makes one, and many slow down every read
MAX_UNINDEXED = 4096  # rows whose words every text search reads one by one
KEEP_VERSIONS = timedelta(hours=1)
PASSES = 4  # of tidying, until one version is left
NO_TIME = timedelta(milliseconds=1)  # at 0 LanceDB warns of what our readers are made for
MAX_QUERY_CHARS = 8192
SCAN_ROWS = 5000

Found = list[tuple[int, float]]


class IndexFailed(StorageFailed):
    """The index can't do what was asked; SQL still can, and searches use it."""

    code = "index"


class Index:
    """The tables below ``folder``. Safe for several threads; writers hold a lock per namespace.

    Args:
        dimension: D, numbers in a vector.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self._dimension = dimension
        self._tables: dict[Path, Any] = {}
        self._sums = IndexSums()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def place(self, namespace: str, generation: int) -> Path:
        """The folder of one generation. Names of namespaces never become paths."""
        return self.folder / short_hash(namespace) / f"g{generation:06d}"

    def build(self, namespace: str, generation: int, batches: Iterable[IndexRows]) -> None:
        """Make a new generation that holds exactly the rows of ``batches``."""
        place = self.place(namespace, generation)
        self.drop(namespace, generation)
        with storage_failures(f"index {place}"):
            place.mkdir(parents=True)
        with self._lance(place):
            import lancedb
            from lancedb.index import FTS

            table = lancedb.connect(place, read_consistency_interval=timedelta(0)).create_table(
                TABLE,
                schema=self._schema(),
                storage_options={"new_table_enable_stable_row_ids": "true"},
            )
            # without the key, two writers of one new id would both insert it
            table.set_unenforced_primary_key("id")
            table.create_index("text", config=FTS(), name=TEXT_INDEX)
        for rows in batches:
            if rows.ids:
                with self._lance(place):
                    table.add(self._batch(rows))
        with self._lance(place):
            table.optimize(cleanup_older_than=KEEP_VERSIONS)
            self._sums.record(place)
        with self._lock:
            self._tables[place] = table

    def apply(
        self, namespace: str, generation: int, puts: IndexRows, deletes: Sequence[int]
    ) -> None:
        """Insert or replace ``puts`` and remove ``deletes``; doing it again changes nothing."""
        place = self.place(namespace, generation)
        with self._lance(place):
            table = self._open(place)
            before = table.version
            if puts.ids:
                merge = table.merge_insert("id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(self._batch(puts))
            if deletes:
                table.delete(_among(deletes))
            waiting = table.index_stats(TEXT_INDEX).num_unindexed_rows
            if (
                table.version // OPTIMIZE_EVERY != before // OPTIMIZE_EVERY
                or waiting > MAX_UNINDEXED
            ):
                table.optimize(cleanup_older_than=KEEP_VERSIONS)
            self._sums.record(place)

    def optimize(self, namespace: str, generation: int) -> None:
        """Merge the fragments of the table and remove its older versions from the disk, now.

        A reader in the midst of an older version fails, opens the table afresh and goes on.
        """
        place = self.place(namespace, generation)
        with self._lance(place):
            self.reopen(namespace, generation)  # what it merges is what is on the disk
            table = self._open(place)
            table.optimize(cleanup_older_than=KEEP_VERSIONS)
            # more than once: words are merged last, which makes a version after the old ones went
            for _ in range(PASSES):
                time.sleep(2 * NO_TIME.total_seconds())
                table.optimize(cleanup_older_than=NO_TIME, delete_unverified=True)
                if len(table.list_versions()) == 1:
                    break
            self._sums.record(place)

    def ids(self, namespace: str, generation: int) -> list[int]:
        """The id of every row of the table."""
        place = self.place(namespace, generation)
        with self._lance(place):
            found = self._open(place).search().select(["id"]).to_arrow()
            return list(found["id"].to_pylist())

    def size(self, namespace: str, generation: int) -> int:
        """Bytes of the table on disk."""
        return bytes_of(self.place(namespace, generation).rglob("*"))

    def nearest(
        self,
        namespace: str,
        generation: int,
        vector: Vector,
        n: int,
        ids: Sequence[int] | None = None,
    ) -> Found:
        """The ``n`` passages (among ``ids``) nearest to ``vector``: ids and cosines, best first."""
        place = self.place(namespace, generation)
        with self._lance(place):
            query = self._open(place).search(vector, vector_column_name="vector")
            query = query.distance_type("cosine").select(["id", "_distance"]).limit(n)
            found = (query if ids is None else query.where(_among(ids))).to_arrow()
            distances = found["_distance"].to_pylist()
            return [(i, 1 - d) for i, d in zip(found["id"].to_pylist(), distances, strict=True)]

    def match(
        self,
        namespace: str,
        generation: int,
        text: str,
        n: int,
        ids: Sequence[int] | None = None,
    ) -> Found:
        """The ``n`` passages (among ``ids``) that fit the words of ``text``: ids and BM25 scores.

        ``text`` is words, not a query language: quotes and operators have no meaning.
        """
        place = self.place(namespace, generation)
        with self._lance(place):
            from lancedb.query import MatchQuery

            sound = text[:MAX_QUERY_CHARS].encode(errors="replace").decode()  # no lone surrogates
            words = MatchQuery(sound, "text")
            query = self._open(place).search(words, query_type="fts")
            query = query.select(["id", "_score"]).limit(n)
            found = (query if ids is None else query.where(_among(ids))).to_arrow()
            return list(zip(found["id"].to_pylist(), found["_score"].to_pylist(), strict=True))

    def count(self, namespace: str, generation: int) -> int:
        """Rows in the table."""
        place = self.place(namespace, generation)
        with self._lance(place):
            return int(self._open(place).count_rows())

    def scan(self, namespace: str, generation: int) -> Iterator[IndexRows]:
        """Everything the table holds, in batches."""
        place = self.place(namespace, generation)
        with self._lance(place):
            batches = self._open(place).search().select(["id", "vector", "text"])
            for batch in batches.to_batches(SCAN_ROWS):
                flat = batch["vector"].flatten().to_numpy()
                vectors = np.asarray(flat, np.float32).reshape(-1, self._dimension)
                yield IndexRows(batch["id"].to_pylist(), vectors, batch["text"].to_pylist())

    def reopen(self, namespace: str, generation: int) -> None:
        """Let go of the open table, so that it is read anew."""
        with self._lock:
            self._tables.pop(self.place(namespace, generation), None)

    def set_aside(self, namespace: str, generation: int) -> Path | None:
        """Rename an unreadable table to ``*.bad-<n>``; its new place, or None if there is none."""
        self.reopen(namespace, generation)
        place = self.place(namespace, generation)
        if not place.exists():
            return None
        n = 1
        while (aside := place.with_name(f"{place.name}.bad-{n}")).exists():
            n += 1
        with storage_failures(f"index {place}"):
            return place.rename(aside)

    def drop(self, namespace: str, generation: int) -> None:
        """Remove a generation, if it is there."""
        self.reopen(namespace, generation)
        place = self.place(namespace, generation)
        if place.exists():
            with storage_failures(f"index {place}"):
                shutil.rmtree(place)

    def check_process(self) -> None:
        """Raise in a forked child."""
        if os.getpid() != self._process:
            raise AdapterDBError(
                "this store was opened before a fork; its index can't be used in the child",
                code="forked",
                hint="open the store in the child, or start it with multiprocessing's 'spawn'",
            )

    def close(self) -> None:
        """Let go of all open tables."""
        with self._lock:
            self._tables.clear()

    def _open(self, place: Path) -> Any:
        """The table in ``place``, opened once and always read at its newest version."""
        with self._lock:
            if place not in self._tables:
                import lancedb  # over a second, for the commands that search or ingest

                if not place.exists():  # connecting would make the folder
                    raise FileNotFoundError(place)
                self._sums.compare(place)
                connection = lancedb.connect(place, read_consistency_interval=timedelta(0))
                self._tables[place] = connection.open_table(TABLE)
            return self._tables[place]

    @contextmanager
    def _lance(self, place: Path) -> Iterator[None]:
        """Turn whatever Lance raises into IndexFailed, even a panic of its Rust core."""
        self.check_process()
        try:
            yield
        except BaseException as error:
            panic = type(error).__name__ == "PanicException"
            if not isinstance(error, Exception) and not panic:
                raise
            full = "No space left" in str(error)
            raise IndexFailed(
                f"index {place}: {error}", code="disk_full" if full else None
            ) from error

    def _schema(self) -> Any:
        import pyarrow as pa

        vector = pa.list_(pa.float32(), self._dimension)
        fields = {"id": pa.int64(), "vector": vector, "text": pa.string()}
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()])

    def _batch(self, rows: IndexRows) -> Any:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(rows.vectors, np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, self._dimension)
        columns = [pa.array(rows.ids, pa.int64()), vectors, pa.array(rows.texts, pa.string())]
        return pa.table(columns, schema=self._schema())


def short_hash(namespace: str) -> str:
    """A file name for a namespace."""
    return hashlib.sha256(namespace.encode()).hexdigest()[:16]


def _among(ids: Sequence[int]) -> str:
    """A filter on ids; built from integers only."""
    return f"id IN ({','.join(str(int(i)) for i in ids)})"
