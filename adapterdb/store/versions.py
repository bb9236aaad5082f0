"""Versions of documents: how one is born, and how it is withdrawn, inside a writing transaction."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from adapterdb.errors import InvalidInput, Mismatch, NotFound
from adapterdb.records import Metadata, StoredDocument, check_namespace
from adapterdb.store.conditions import condition
from adapterdb.store.filters import Filter
from adapterdb.store.rows import NewDocument, NewPassage, StoreInfo
from adapterdb.store.tables import (
    DeltaTable,
    DocumentTable,
    FieldTable,
    OutboxTable,
    PassageTable,
)
from adapterdb.store.weights import ITEM_BYTES


def active_documents(namespace: str | None) -> Select[DocumentTable]:
    """The active documents, of one namespace or all."""
    query = select(DocumentTable).where(DocumentTable.state == "active")
    return query if namespace is None else query.where(DocumentTable.namespace == namespace)


def check_new(new: NewDocument, info: StoreInfo) -> None:
    """Refuse what would be stored but never found, or never used: InvalidInput, Mismatch."""
    check_namespace(new.namespace)
    if not new.passages:
        raise InvalidInput(f"document {new.document.name!r} has no passages")
    size = info.layout.size * ITEM_BYTES[info.dtype]
    for entry in new.passages:
        vector, row = entry.vector, entry.row
        where = f"passage {entry.passage.ordinal} of document {new.document.name!r}"
        length = float(np.linalg.norm(vector)) if vector.shape == (info.dimension,) else -1.0
        if not abs(length - 1) < 1e-3:  # NaN fails too
            raise InvalidInput(
                f"{where} has a vector of shape {vector.shape} and length {length:g};"
                f" expected ({info.dimension},) and 1",
            )
        if (row.dtype, row.size_bytes) != (info.dtype, size):
            raise Mismatch(
                f"{where} has a row of {row.size_bytes} bytes {row.dtype};"
                f" expected {size} bytes {info.dtype}",
                code="layout_mismatch",
            )


def add_document(session: Session, new: NewDocument, seq: int, info: StoreInfo) -> StoredDocument:
    """Add the next version of a document and retire the one it replaces."""
    document, now = new.document, datetime.now(UTC).isoformat(timespec="milliseconds")
    same_name = (
        DocumentTable.namespace == new.namespace,
        DocumentTable.name == document.name,
    )
    active = session.scalar(
        active_documents(None).where(*same_name).with_only_columns(DocumentTable.id)
    )
    if active is not None:
        withdraw(session, new.namespace, active, "retired")
    last = session.scalar(select(func.max(DocumentTable.version)).where(*same_name))
    row = DocumentTable(
        namespace=new.namespace,
        name=document.name,
        version=(last or 0) + 1,
        state="active",
        title=document.title,
        source=document.source,
        text=document.text,
        text_sha256=new.text_sha256,
        key=new.key,
        fields=dict(document.metadata),
        passages=len(new.passages),
        created_at=now,
        seq=seq,
    )
    session.add(row)
    session.flush()
    session.add_all(_field_rows(row.id, document.metadata))
    passages = [_passage(row.id, entry) for entry in new.passages]
    session.add_all(passages)
    session.flush()
    for entry, passage in zip(new.passages, passages, strict=True):
        session.add(_new_delta(row, entry, passage.id, info))
        session.add(OutboxTable(namespace=new.namespace, op="put", passage_id=passage.id))
    session.flush()
    return stored(row)


def withdraw(session: Session, namespace: str, document_id: int, state: str) -> None:
    """Take an active document out of every answer, and queue its removal from the index."""
    chosen = DocumentTable.id == document_id
    session.execute(update(DocumentTable).where(chosen).values(state=state))
    ids = session.scalars(select(PassageTable.id).where(PassageTable.document_id == document_id))
    entries = [{"namespace": namespace, "op": "delete", "passage_id": i} for i in ids]
    if entries:
        session.execute(insert(OutboxTable), entries)


def chosen(
    session: Session, namespace: str, names: Iterable[str] | None, where: Filter | None
) -> list[int]:
    """Ids of the active documents that are named and meet ``where``; NotFound for a lost name."""
    query = active_documents(namespace).with_only_columns(DocumentTable.id)
    if where is not None:
        query = query.where(condition(where))
    if names is None:
        return list(session.scalars(query))
    ids = []
    for name in dict.fromkeys(names):
        found = session.scalar(query.where(DocumentTable.name == name))
        if found is None:
            raise no_document(namespace, name)
        ids.append(found)
    return ids


def no_document(namespace: str, name: str) -> NotFound:
    """The error for a name that is not there."""
    return NotFound(
        f"there is no document {name!r} in namespace {namespace!r}", hint="`adb list` shows all"
    )


def _field_rows(document_id: int, metadata: Metadata) -> list[FieldTable]:
    rows = []
    for key, value in metadata.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            text = str(item).lower() if isinstance(item, bool) else str(item)
            name = "tag" if key == "tags" else key
            entry = FieldTable(document_id=document_id, key=name, text=text, number=_number(item))
            rows.append(entry)
    return rows


def _number(value: object) -> float | None:
    """``value`` as a finite number, if it is one or reads as one."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _passage(document_id: int, new: NewPassage) -> PassageTable:
    passage = new.passage
    return PassageTable(
        document_id=document_id,
        ordinal=passage.ordinal,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        tokens=passage.tokens,
        vector=new.vector.astype("<f4").tobytes(),
    )


def _new_delta(
    document: DocumentTable, new: NewPassage, passage_id: int, info: StoreInfo
) -> DeltaTable:
    parts = (document.namespace, document.name, document.version, new.passage.ordinal)
    origin = "\0".join(map(str, (*parts, new.row.sha256)))
    return DeltaTable(
        id=hashlib.sha256(origin.encode()).hexdigest()[:32],
        passage_id=passage_id,
        kind=new.kind,
        file=new.row.file,
        offset=new.row.offset,
        size_bytes=new.row.size_bytes,
        dtype=new.row.dtype,
        sha256=new.row.sha256,
        norm=new.row.norm,
        recipe=new.recipe,
        loss_before=new.loss_before,
        loss_after=new.loss_after,
        base_fingerprint=info.base_fingerprint,
        layout_fingerprint=info.layout.fingerprint,
        meta_init_fingerprint=new.meta_init_fingerprint,
        created_at=document.created_at,
    )


def stored(row: DocumentTable) -> StoredDocument:
    """The record of a document version."""
    return StoredDocument(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        version=row.version,
        title=row.title,
        source=row.source,
        text_sha256=row.text_sha256,
        metadata=row.fields,
        passages=row.passages,
        created_at=row.created_at,
        seq=row.seq,
    )
