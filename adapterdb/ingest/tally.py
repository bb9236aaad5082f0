"""What has become of the documents of an ingest so far, and telling whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable

from adapterdb.records import DocumentResult, IngestReport, Progress


class Tally:
    """Counts what became of documents and tells whoever listens.

    Args:
        passages_total: for the progress, where it is known.
        on_progress: called with every document that is added.

    Attributes:
        passages: fitted and committed. documents: of any outcome. size_bytes: of deltas written.
        indexed: passages at the last update of the index.
    """

    def __init__(
        self, passages_total: int | None, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.passages = self.documents = self.size_bytes = self.indexed = 0
        self._counts = {"added": 0, "updated": 0, "skipped": 0, "rejected": 0}
        self._failures: list[DocumentResult] = []
        self._total, self._listener = passages_total, on_progress
        self._began = time.perf_counter()

    def add(self, result: DocumentResult) -> None:
        """One more document, after its commit, skip or rejection."""
        if result.event == "committed":
            self._counts["added" if result.version == 1 else "updated"] += 1
            self.passages += result.passages
        else:
            self._counts[result.event] += 1
        if result.event == "rejected":
            self._failures.append(result)
        self.documents += 1
        if self._listener is not None:
            self._listener(
                Progress(self.documents, self.passages, self._total, self._seconds(), result)
            )

    def report(self) -> IngestReport:
        """The totals so far."""
        return IngestReport(
            **self._counts,
            passages=self.passages,
            size_bytes=self.size_bytes,
            seconds=self._seconds(),
            failures=tuple(self._failures),
        )

    def _seconds(self) -> float:
        return time.perf_counter() - self._began
