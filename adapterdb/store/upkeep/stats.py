"""How much a home holds, and where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import InstrumentedAttribute

from adapterdb.records import Record
from adapterdb.store.folders import bytes_of
from adapterdb.store.tables import WITHDRAWN, DeltaTable, DocumentTable, PassageTable

if TYPE_CHECKING:
    from adapterdb.store.store import Store


@dataclass(frozen=True)
class StoreStats(Record):
    """Counts of what is stored, and bytes on disk by kind.

    Args:
        namespaces, documents, passages, deltas: active ones.
        replaced, deleted: document versions that are kept besides.
        damaged: deltas that can't be used: their row is lost, or was withdrawn.
        clusters: rows that the deltas of clusters share; ``flagged``: deltas that are doubted.
        loss_before, loss_after, loss_shifted: mean loss of passages, nats per token, without their
            delta, with it, and with another's; None where none was measured.
        changes: number of the last change.
        indexed: namespaces that have an index; ``pending``: changes it does not show yet (searches
            do).
        catalog_bytes: 0 where the catalog is not in the home.
        reserve_bytes: kept aside for deleting on a full disk.
        quarantine_bytes: what repair took away.
    """

    namespaces: int
    documents: int
    passages: int
    deltas: int
    replaced: int
    deleted: int
    damaged: int
    changes: int
    indexed: int
    pending: int
    catalog_bytes: int
    weight_bytes: int
    index_bytes: int
    reserve_bytes: int
    quarantine_bytes: int
    clusters: int = 0
    flagged: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    loss_shifted: float | None = None


def measure(store: Store, namespace: str | None = None) -> StoreStats:
    """Counts, of one namespace or all; bytes are always those of the whole home."""
    of_namespace = [] if namespace is None else [DocumentTable.namespace == namespace]
    versions = (
        select(DocumentTable.state, func.count(), func.sum(DocumentTable.passages))
        .where(*of_namespace)
        .group_by(DocumentTable.state)
    )
    deltas = (
        select(
            func.count(DeltaTable.id),
            _count_if(DeltaTable.damaged),
            _count_if(DeltaTable.flag.not_in(("", WITHDRAWN))),
            func.avg(DeltaTable.loss_before),
            func.avg(DeltaTable.loss_after),
            func.avg(DeltaTable.loss_shifted),
        )
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(DocumentTable.state == "active", *of_namespace)
    )
    shared = deltas.with_only_columns(DeltaTable.file, DeltaTable.offset).where(
        DeltaTable.kind == "cluster", DeltaTable.damaged.is_(False)
    )
    spaces = select(func.count(DocumentTable.namespace.distinct())).where(
        DocumentTable.state == "active", *of_namespace
    )
    with store.sessions.reading() as session:
        found = {state: (n, int(passages)) for state, n, passages in session.execute(versions)}
        count, damaged, flagged, before, after, shifted = session.execute(deltas).one()
        clusters = session.scalar(select(func.count()).select_from(shared.distinct().subquery()))
        namespaces = session.scalar(spaces) or 0
    documents, passages = found.get("active", (0, 0))
    catalog_bytes, weight_bytes, index_bytes = store.paths.sizes()
    return StoreStats(
        namespaces=namespaces,
        documents=documents,
        passages=passages,
        deltas=count,
        replaced=found.get("retired", (0, 0))[0],
        deleted=found.get("deleted", (0, 0))[0],
        damaged=damaged or 0,
        changes=store.changes.now().seq,
        indexed=len([name for name in store.outbox.indexed() if namespace in (None, name)]),
        pending=store.outbox.count(namespace),
        catalog_bytes=catalog_bytes,
        weight_bytes=weight_bytes,
        index_bytes=index_bytes,
        reserve_bytes=store.reserve.held_bytes,
        quarantine_bytes=bytes_of(store.paths.quarantine.rglob("*")),
        clusters=clusters or 0,
        flagged=flagged or 0,
        loss_before=before,
        loss_after=after,
        loss_shifted=shifted,
    )


def _count_if(test: ColumnElement[bool] | InstrumentedAttribute[bool]) -> ColumnElement[int]:
    return func.sum(case((test, 1), else_=0))
