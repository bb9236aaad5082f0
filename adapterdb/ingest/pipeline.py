"""The ingest path: skip what is known, chunk, fit in batches, embed, store, acknowledge.

Passages of several documents share a batch; a document is committed as soon as its last passage is
fitted, all of its passages in one transaction. The catalog is the only checkpoint: running the same
ingest again takes up where it stopped. Reads no files and talks to no person.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.errors import NotFound, Rejected
from adapterdb.ingest.augmented import augmentation_of
from adapterdb.ingest.chunking import chunk
from adapterdb.ingest.clusters import ClusterOptions, cluster, delta_directions
from adapterdb.ingest.making import Made, Maker, Piece, Workshop
from adapterdb.ingest.readers import Rejection, check_document
from adapterdb.ingest.tally import Tally
from adapterdb.records import (
    Document,
    DocumentResult,
    Estimate,
    IngestReport,
    Metadata,
    Passage,
    Progress,
    check_namespace,
)
from adapterdb.store.encoding import stored_bytes
from adapterdb.store.rows import NewDocument, NewPassage
from adapterdb.store.store import Store
from adapterdb.training.objective import TrainingPassage, sequences_of

BATCH_TOKENS = 4096  # of passages handed over at once, which the bank sorts by length
TRIAL_PASSAGES = 8
INDEX_EVERY = 256  # committed passages between two updates of the index

Item = Document | Rejection


@dataclass
class _Work:
    """A document on its way: its passages, and what has been made of them so far."""

    namespace: str
    document: Document
    text_sha256: str
    key: str
    passages: list[Passage]
    number: int = field(default_factory=count().__next__)
    made: list[NewPassage] = field(default_factory=list)
    failed: Rejected | None = None

    @property
    def done(self) -> bool:
        return self.failed is not None or len(self.made) == len(self.passages)

    def training_passage(self, passage: Passage) -> TrainingPassage:
        rewrite, qa, facts = augmentation_of(self.document, passage)
        return TrainingPassage(self.document.title, passage.text, rewrite, qa, facts)

    def piece(self, passage: Passage) -> Piece:
        return Piece(passage, self.training_passage(passage), self.number)

    def take(self, made: Made) -> None:
        """What became of the next passage."""
        if isinstance(made, Rejected):
            self.failed = made
        else:
            self.made.append(made)


class Pipeline:
    """Ingests into one store with one workshop.

    Args:
        store: where documents go.
        workshop: what makes their deltas.
    """

    def __init__(self, store: Store, workshop: Workshop) -> None:
        self.store, self.shop = store, workshop
        self.maker = Maker(store, workshop)

    def run(
        self,
        items: Iterable[Item],
        *,
        namespace: str = "default",
        metadata: Metadata | None = None,
        passages_total: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        clusters: ClusterOptions | None = None,
    ) -> IngestReport:
        """Take in documents; what is returned or reported as committed is durable.

        Args:
            items: documents and rejections, as ``read_documents`` yields them.
            namespace: they go into.
            metadata: fields added to every document's own.
            passages_total: for the progress, where it is known.
            on_progress: called after every document, after its commit.
            clusters: one delta for each cluster of passages instead of one for each passage; all
                texts of the run are then held in memory, and committed together.
        """
        check_namespace(namespace)
        tally = Tally(passages_total, on_progress)
        waiting: list[_Work] = []
        for item in items:
            work = self._begin(item, namespace, metadata or {}, clusters)
            if isinstance(work, DocumentResult):
                tally.add(work)
                continue
            waiting.append(work)
            while clusters is None and self._full(waiting):
                self._step(waiting, tally)
        if clusters is not None:
            self._step_clusters(waiting, tally, clusters)
        while waiting:
            self._step(waiting, tally)
        self.store.apply_outbox()
        return tally.report()

    def estimate(self, items: Iterable[Item], *, namespace: str = "default") -> Estimate:
        """What ``run`` would cost, from the texts and a trial on a few passages; stores nothing."""
        check_namespace(namespace)
        counts = {"documents": 0, "known": 0, "rejected": 0, "passages": 0, "tokens": 0}
        trial: list[Piece] = []
        for item in items:
            work = self._begin(item, namespace, {})
            if isinstance(work, DocumentResult):
                counts["known" if work.event == "skipped" else "rejected"] += 1
                continue
            counts["documents"] += 1
            counts["passages"] += len(work.passages)
            counts["tokens"] += sum(p.tokens for p in work.passages)
            room = TRIAL_PASSAGES - len(trial)
            trial += [work.piece(passage) for passage in work.passages[:room]]
        each = self.maker.seconds_each(trial)
        bytes_each = stored_bytes(self.store.info.dtype, self.shop.adapted.layout.size)
        bytes_each += 4 * self.shop.embedder.dimension
        return Estimate(
            **counts,
            trial_passages=len(trial),
            seconds_per_passage=each,
            seconds=each * counts["passages"],
            size_bytes=bytes_each * counts["passages"],
        )

    def count(
        self,
        items: Iterable[Item],
        *,
        namespace: str = "default",
        clusters: ClusterOptions | None = None,
    ) -> int:
        """How many passages ``run`` would fit, without fitting any."""
        works = (self._begin(item, namespace, {}, clusters) for item in items)
        return sum(len(work.passages) for work in works if isinstance(work, _Work))

    def recluster(
        self,
        namespace: str,
        clusters: ClusterOptions,
        *,
        by: Literal["text", "deltas"] = "deltas",
        where: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IngestReport:
        """Put stored documents into clusters: a new version of each, with its cluster's delta.

        Args:
            clusters: how; ``representative`` says which passages a delta is made from again.
            by: what passages are compared by, their vectors or their deltas.
            where: only documents that meet this filter.
            on_progress: called after the commit.

        Raises:
            NotFound: if there is no such document.
        """
        tally = Tally(None, on_progress)
        works, rows = self._stored(check_namespace(namespace), where)
        if not works:
            raise NotFound(f"namespace {namespace!r} holds no such document")
        directions = delta_directions(torch.stack(rows).numpy()) if by == "deltas" else None
        self._step_clusters(works, tally, clusters, directions)
        self.store.apply_outbox()
        return tally.report()

    def _stored(self, namespace: str, where: str | None) -> tuple[list[_Work], list[Tensor]]:
        """The documents of a namespace as work to be done again, and the rows of their deltas."""
        works, rows = [], []
        for stored in self.store.documents(namespace, where=where, limit=10**9):
            passages = self.store.passages(stored.id)
            document = Document(
                stored.name,
                self.store.text(stored.id),
                stored.title,
                stored.source,
                stored.metadata,
            )
            key = self.store.catalog.current_key(namespace, stored.name) or ""
            cut = [Passage(p.ordinal, p.start, p.end, p.text, p.tokens) for p in passages]
            works.append(_Work(namespace, document, stored.text_sha256, key, cut))
            rows += [self.store.read_row(passage.row).float() for passage in passages]
        return works, rows

    def _begin(
        self,
        item: Item,
        namespace: str,
        metadata: Metadata,
        clusters: ClusterOptions | None = None,
    ) -> _Work | DocumentResult:
        """A document cut into passages, or why there is nothing to do for it."""
        if isinstance(item, Rejection):
            return _rejected(item.name, namespace, item.code, item.message)
        document = replace(item, metadata={**item.metadata, **metadata})
        try:
            document = check_document(document, self.shop.config.limits)
        except Rejected as error:
            return _rejected(item.name, namespace, error.code, error.message)
        sha = hashlib.sha256(document.text.encode()).hexdigest()
        key = self._key(document, sha, clusters)
        if self.store.is_current(namespace, document.name, key):
            return DocumentResult("skipped", document.name, namespace, text_sha256=sha)
        passages = chunk(document.text, self.shop.base.tokenizer, self.shop.config.chunk)
        work = _Work(namespace, document, sha, key, passages)
        limit = self.shop.config.limits.passages
        try:
            if not passages:
                raise Rejected("no words to learn from", code="empty")
            if len(passages) > limit:
                raise Rejected(f"{len(passages)} passages, at most {limit}", code="too_large")
            for passage in passages:
                sequences_of(
                    work.training_passage(passage), self.shop.recipe, self.shop.base.encoder
                )
        except Rejected as error:
            return _rejected(document.name, namespace, error.code, error.message)
        return work

    def _key(
        self, document: Document, text_sha256: str, clusters: ClusterOptions | None = None
    ) -> str:
        """sha256 of all that a document's deltas and fields depend on."""
        shop = self.shop
        facts: list[Any] = [
            text_sha256,
            document.title,
            sorted(document.metadata.items()),
            document.rewrite,
            document.qa,
            shop.base.fingerprint,
            shop.embedder.fingerprint,
            shop.recipe.fingerprint,
            shop.start.fingerprint,
            shop.adapted.layout.fingerprint,
            [shop.config.chunk.tokens, shop.config.chunk.overlap, shop.config.delta_dtype],
        ]
        if document.augmented:
            facts.append([entry.to_dict() for entry in document.augmented])
        if shop.weigher is not None:
            facts.append(shop.weigher.fingerprint)
        if clusters is not None:
            facts.append(clusters.to_dict())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _full(self, waiting: list[_Work]) -> bool:
        batch = _next_batch(waiting)
        return len(batch) < sum(len(work.passages) - len(work.made) for work in waiting)

    def _step(self, waiting: list[_Work], tally: Tally) -> None:
        """Fit one batch, then commit the documents it completed."""
        batch = _next_batch(waiting)
        made = self.maker.make([work.piece(passage) for work, passage in batch])
        for (work, _), entry in zip(batch, made, strict=True):
            work.take(entry)
        done = [work for work in waiting if work.done]
        waiting[:] = [work for work in waiting if not work.done]
        self._commit(done, tally)

    def _step_clusters(
        self,
        waiting: list[_Work],
        tally: Tally,
        clusters: ClusterOptions,
        directions: NDArray[np.float32] | None = None,
    ) -> None:
        """Fit one delta for each cluster of everything that waits, and commit it all.

        Args:
            directions: unit vectors the passages are compared by; None means their own vectors.
        """
        batch = [(work, passage) for work in waiting for passage in work.passages]
        pieces = [work.piece(passage) for work, passage in batch]
        if pieces:
            if directions is None:
                directions = np.stack(self.maker.vectors(pieces))
            found = cluster(directions, clusters)
            for (work, _), entry in zip(
                batch, self.maker.make_clusters(pieces, found), strict=True
            ):
                work.take(entry)
        self._commit(waiting, tally)
        waiting.clear()

    def _commit(self, done: Sequence[_Work], tally: Tally) -> None:
        """Make finished documents exist, and say what became of each."""
        good = [work for work in done if work.failed is None]
        stored = self.store.commit(
            [
                NewDocument(w.namespace, w.document, w.text_sha256, w.key, tuple(w.made))
                for w in good
            ]
        )
        for work, row in zip(good, stored, strict=True):
            tally.size_bytes += sum(made.row.size_bytes for made in work.made)
            deltas = tuple(delta.id for delta in self.store.deltas(row.id))
            tally.add(
                DocumentResult(
                    "committed",
                    row.name,
                    row.namespace,
                    version=row.version,
                    seq=row.seq,
                    passages=row.passages,
                    text_sha256=row.text_sha256,
                    delta_ids=deltas,
                )
            )
        for work in done:
            if work.failed is not None:
                code, message = work.failed.code, work.failed.message
                tally.add(_rejected(work.document.name, work.namespace, code, message))
        if tally.passages - tally.indexed >= INDEX_EVERY:
            self.store.apply_outbox()
            tally.indexed = tally.passages


def _next_batch(waiting: list[_Work]) -> list[tuple[_Work, Passage]]:
    """The next passages, in order, of up to ``BATCH_TOKENS`` tokens together; at least one."""
    batch: list[tuple[_Work, Passage]] = []
    tokens = 0
    for work in waiting:
        if work.failed is not None:
            continue
        for passage in work.passages[len(work.made) :]:
            tokens += passage.tokens
            if batch and tokens > BATCH_TOKENS:
                return batch
            batch.append((work, passage))
    return batch


def _rejected(name: str, namespace: str, code: str, message: str) -> DocumentResult:
    return DocumentResult("rejected", name, namespace, code=code, message=message)
