"""Brings the index up to date with SQL: applies the outbox, builds what is missing or unreadable.

One applier per namespace at a time, held by a lock file. Nothing here can fail a commit: what can't
be applied now stays in the outbox, and searches read it from SQL meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from adapterdb.errors import Locked, StorageFailed
from adapterdb.records import Record
from adapterdb.store.failures import storage_failures
from adapterdb.store.index import Index, IndexFailed, short_hash
from adapterdb.store.outbox import Outbox, Pending

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimized(Record):
    """What ``optimize`` made of a namespace's index: rows, bytes; rebuilt if SQL differed."""

    namespace: str
    rows: int
    rebuilt: bool
    bytes_before: int
    bytes_after: int


class Applier:
    """Keeps ``index`` in step with ``outbox``.

    Args:
        locks: folder of the lock files.
        read_only: nothing is applied or built; what is pending is only reported.
        on_step: called at ``index_put``, ``index_built``, ``index_pointed``, ``outbox_cleared``.
    """

    def __init__(
        self,
        index: Index,
        outbox: Outbox,
        locks: Path,
        *,
        dimension: int,
        read_only: bool,
        on_step: Callable[[str], None],
    ) -> None:
        self._index = index
        self._outbox = outbox
        self._locks = locks
        self._probe = np.eye(1, dimension, dtype=np.float32)[0]
        self._read_only = read_only
        self._on_step = on_step
        self._trusted: set[tuple[str, int]] = set()  # generations whose count was compared

    def apply(self, namespace: str, timeout_s: float) -> int:
        """Apply what is pending; how many changes. Failures are logged, never raised."""
        self._index.check_process()
        if self._read_only:
            return 0
        try:
            with self._locked(namespace, timeout_s):
                return self._apply(namespace)
        except Locked as error:
            logger.debug("%s", error)  # the other process does the work
            return 0
        except StorageFailed as error:
            logger.warning(
                "the index of namespace %r is not up to date, searches read the catalog: %s",
                namespace,
                error,
            )
            return 0

    def state(self, namespace: str) -> Pending:
        """Where the index stands now."""
        return self._outbox.pending(namespace)

    def ready(self, namespace: str) -> Pending:
        """Where the index stands, after applying what can be applied without waiting."""
        state = self._outbox.pending(namespace)
        trusted = (namespace, state.generation) in self._trusted
        if self._read_only or (not state.changed and (trusted or not state.generation)):
            return state
        self.apply(namespace, 0)
        return self._outbox.pending(namespace)

    def mend(self, namespace: str, generation: int) -> None:
        """Build the index anew after generation ``generation`` failed, unless that is done."""
        if self._read_only:
            return
        try:
            with self._locked(namespace, 0):
                if self._outbox.pending(namespace).generation == generation:
                    self._rebuild(namespace, generation)
        except (StorageFailed, Locked) as error:
            logger.warning("the index of namespace %r can't be rebuilt: %s", namespace, error)

    def rebuild(self, namespace: str, timeout_s: float) -> None:
        """Build the index anew from SQL, whatever state it is in.

        Raises:
            Locked: if another process works on it for longer than ``timeout_s``.
            StorageFailed: if it can't be written.
        """
        with self._locked(namespace, timeout_s):
            generation = self._outbox.pending(namespace).generation
            self._rebuild(namespace, generation, wanted=True)

    def optimize(self, namespace: str, timeout_s: float) -> Optimized:
        """Apply what is pending, tidy the table, and hold its ids against SQL; see ``rebuild``."""
        with self._locked(namespace, timeout_s):
            before = self._outbox.pending(namespace).generation
            size_before = self._index.size(namespace, before)
            self._apply(namespace)
            generation = self._outbox.pending(namespace).generation
            if not generation:
                return Optimized(namespace, 0, rebuilt=False, bytes_before=0, bytes_after=0)
            rows = self._tidied(namespace, generation)
            if rows is None:
                self._rebuild(namespace, generation)
                generation += 1
                rows = self._index.count(namespace, generation)
            return Optimized(
                namespace,
                rows,
                rebuilt=before not in (0, generation),
                bytes_before=size_before,
                bytes_after=self._index.size(namespace, generation),
            )

    def _tidied(self, namespace: str, generation: int) -> int | None:
        """Rows of the table, tidied; None if it can't be, or isn't what SQL says it should be."""
        try:
            self._index.optimize(namespace, generation)
            found = self._index.ids(namespace, generation)
        except IndexFailed as error:
            logger.warning("%s", error)
            return None
        return len(found) if self._agrees(namespace, found) else None

    def _apply(self, namespace: str) -> int:
        state = self._outbox.pending(namespace)
        if not state.generation:
            return self._rebuild(namespace, 0) if state.changed else 0
        applied = 0
        while (batch := self._outbox.fetch(namespace)).seqs:
            try:
                self._index.apply(namespace, state.generation, batch.puts, batch.deletes)
            except IndexFailed:
                if self._readable(namespace, state.generation):
                    raise
                return applied + self._rebuild(namespace, state.generation)
            self._on_step("index_put")
            self._outbox.clear(batch.seqs)
            self._on_step("outbox_cleared")
            applied += len(batch.seqs)
        return applied + self._compare(namespace)

    def _compare(self, namespace: str) -> int:
        """Once per process: rebuild an index of other passages, as after a power cut or a copy."""
        state = self._outbox.pending(namespace)
        if (namespace, state.generation) in self._trusted or state.changed:
            return 0
        if self._readable(namespace, state.generation) and self._agrees(
            namespace, self._index.ids(namespace, state.generation)
        ):
            self._trusted.add((namespace, state.generation))
            return 0
        return self._rebuild(namespace, state.generation)

    def _agrees(self, namespace: str, held: Sequence[int]) -> bool:
        """Whether these are the passages the table should hold, each once.

        Ids are enough: none is ever used again, so equal ids were never written otherwise.
        """
        state, wanted = self._outbox.members(namespace)
        wrong = (wanted ^ set(held)) - set(state.changed)  # what is pending may differ
        if wrong & wanted:  # what is damaged in the catalog is not in the index
            wrong -= wanted - self._outbox.sound(namespace)
        return not wrong and len(set(held)) == len(held)

    def _readable(self, namespace: str, generation: int) -> bool:
        """Whether the table answers at all, opened afresh."""
        self._index.reopen(namespace, generation)
        try:
            self._index.count(namespace, generation)
            self._index.nearest(namespace, generation, self._probe, 1)
        except IndexFailed as error:
            logger.warning("%s", error)
            return False
        return True

    def _rebuild(self, namespace: str, generation: int, *, wanted: bool = False) -> int:
        """Build the next generation and point to it; the number of changes that it covers."""
        if generation and not wanted:
            logger.warning("rebuilding the index of namespace %r from the catalog", namespace)
        with self._outbox.snapshot(namespace) as (seqs, batches):
            self._index.build(namespace, generation + 1, batches)
        self._on_step("index_built")
        self._outbox.set_generation(namespace, generation + 1, seqs)
        self._on_step("index_pointed")
        self._trusted.add((namespace, generation + 1))
        if generation:
            self._index.set_aside(namespace, generation)
        return len(seqs)

    @contextmanager
    def _locked(self, namespace: str, timeout_s: float) -> Iterator[None]:
        path = self._locks / f"index-{short_hash(namespace)}.lock"
        lock = FileLock(path, timeout=timeout_s)
        try:
            with storage_failures(f"lock {path}"):
                lock.acquire()
        except Timeout as error:
            raise Locked(f"another process works on the index of {namespace!r}") from error
        try:
            yield
        finally:
            lock.release()
