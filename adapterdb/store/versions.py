"""Versions of documents: how one is born, and how it is withdrawn, inside a writing transaction."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Select, and_, func, insert, or_, select, update
from sqlalchemy.orm import Session

from adapterdb.errors import InvalidInput, Mismatch, NotFound
from adapterdb.records import Metadata, StoredDocument, check_namespace
from adapterdb.store.changes import Moment, note, tick
from adapterdb.store.conditions import condition
from adapterdb.store.encoding import stored_bytes
from adapterdb.store.filters import Filter
from adapterdb.store.prototypes import sealed, size_bytes
from adapterdb.store.rows import NewDocument, NewPassage, StoreInfo
from adapterdb.store.sharing import partners, withdraw_rows
from adapterdb.store.tables import (
    WITHDRAWN,
    ChangeTable,
    DeltaTable,
    DocumentTable,
    FieldTable,
    LineageTable,
    OutboxTable,
    PassageTable,
)

Values = dict[str, Any]  # of a row, by the names of its columns in ``tables``


def visible(as_of: int | None) -> ColumnElement[bool]:
    """The document is found now, or was found as of change ``as_of`` and is not deleted since."""
    if as_of is None:
        return DocumentTable.state == "active"
    return and_(
        DocumentTable.state != "deleted",
        DocumentTable.seq <= as_of,
        or_(DocumentTable.until_seq.is_(None), DocumentTable.until_seq > as_of),
    )


def active_documents(namespace: str | None, as_of: int | None = None) -> Select[DocumentTable]:
    """The documents that are found, of one namespace or all."""
    query = select(DocumentTable).where(visible(as_of))
    return query if namespace is None else query.where(DocumentTable.namespace == namespace)


def check_new(new: NewDocument, info: StoreInfo) -> None:
    """Refuse what would be stored but never found, or never used: InvalidInput, Mismatch."""
    check_namespace(new.namespace)
    if not new.passages:
        raise InvalidInput(f"document {new.document.name!r} has no passages")
    size = stored_bytes(info.dtype, info.layout.size)
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
        if entry.prototype and len(entry.prototype) != size_bytes(info.layout):
            raise Mismatch(
                f"{where} has a prototype of {len(entry.prototype)} bytes;"
                f" expected {size_bytes(info.layout)}",
                code="layout_mismatch",
            )


def add_document(
    session: Session, new: NewDocument, moment: Moment, info: StoreInfo
) -> StoredDocument:
    """Add the next version of a document as change ``moment`` and retire the one it replaces."""
    document = new.document
    row = DocumentTable(
        namespace=new.namespace,
        name=document.name,
        title=document.title,
        source=document.source,
        text=document.text,
        text_sha256=new.text_sha256,
        key=new.key,
        fields=dict(document.metadata),
        passages=len(new.passages),
    )
    _replace(session, row, moment)
    passages = [_passage(row.id, entry) for entry in new.passages]
    deltas = [_new_delta(row, entry, info) for entry in new.passages]
    parents = {
        delta["id"]: entry.parents
        for entry, delta in zip(new.passages, deltas, strict=True)
        if entry.parents
    }
    for made_from in parents.values():
        _check_parents(session, made_from, visible(None))
    _add_passages(session, row, passages, deltas, parents)
    note(session, moment, "put", row)
    session.flush()
    return stored(row)


def _check_parents(session: Session, parents: Sequence[str], there: ColumnElement[bool]) -> None:
    """NotFound unless each is a delta of a document that is ``there``: others may go any moment."""
    query = (
        select(DeltaTable.id)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(DeltaTable.id.in_(parents), DeltaTable.flag != WITHDRAWN, there)
    )
    if parents and (missing := set(parents) - set(session.scalars(query))):
        raise NotFound(f"delta {min(missing)!r}, which it is made from, is not there or deleted")


def revive(session: Session, old: DocumentTable, moment: Moment) -> StoredDocument:
    """Add a version that is as ``old`` was, with deltas on the same stored rows."""
    row = DocumentTable(**_values(old) | {"until_seq": None, "forget": False})
    _replace(session, row, moment)
    stored_parts = (
        select(PassageTable, DeltaTable)
        .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
        .where(PassageTable.document_id == old.id)
        .order_by(PassageTable.ordinal)
    )
    passages, deltas, parents = [], [], {}
    for passage, delta in session.execute(stored_parts).all():
        passages.append(_values(passage) | {"document_id": row.id})
        new_id = _delta_id(row, passage.ordinal, delta.sha256)
        deltas.append(_values(delta) | {"id": new_id, "created_at": row.created_at})
        query = select(LineageTable.parent).where(LineageTable.child == delta.id)
        made_from = list(session.scalars(query))
        _check_parents(session, made_from, DocumentTable.state != "deleted")
        parents[new_id] = made_from
    _add_passages(session, row, passages, deltas, parents)
    note(session, moment, "rollback", row)
    session.flush()
    return stored(row)


def withdraw(session: Session, document: DocumentTable, state: str, seq: int) -> None:
    """Take a document out of every answer as of change ``seq``, and out of the index soon.

    Deleting the active version also takes the earlier ones: nothing of a deleted name can be asked
    for.
    """
    chosen = [DocumentTable.id == document.id]
    if document.state == "active":
        session.execute(update(DocumentTable).where(*chosen).values(until_seq=seq))
        if state == "deleted":
            chosen = [
                DocumentTable.namespace == document.namespace,
                DocumentTable.name == document.name,
            ]
    session.execute(update(DocumentTable).where(*chosen).values(state=state))
    ids = session.scalars(select(PassageTable.id).where(PassageTable.document_id == document.id))
    entries = [
        {"namespace": document.namespace, "op": "delete", "passage_id": passage} for passage in ids
    ]
    if entries:
        session.execute(insert(OutboxTable), entries)


def delete_documents(session: Session, rows: Sequence[DocumentTable]) -> None:
    """Take active documents, and whatever was derived from any version of them, out of answers.

    What shared a row of a cluster with them stays, but loses the row.
    """
    relatives = kin(session, versions_of(session, rows))
    every = [*rows, *(row for row in relatives if row.state == "active")]
    gone = {(row.namespace, row.name) for row in every}  # with their earlier versions
    whole = list(every)
    every += [
        row for row in relatives if row.state == "retired" and (row.namespace, row.name) not in gone
    ]
    first = tick(session, len(every))
    for i, row in enumerate(every):
        moment = Moment(first.seq + i, first.at)
        withdraw(session, row, "deleted", moment.seq)
        note(session, moment, "delete", row)
    withdraw_rows(session, {row.id for row in (*every, *versions_of(session, whole))})


def versions_of(session: Session, rows: Sequence[DocumentTable]) -> list[DocumentTable]:
    """Every stored version of the names of these documents."""
    found: list[DocumentTable] = []
    for namespace, name in dict.fromkeys((row.namespace, row.name) for row in rows):
        query = select(DocumentTable).where(
            DocumentTable.namespace == namespace, DocumentTable.name == name
        )
        found += session.scalars(query.order_by(DocumentTable.version))
    return found


def is_stored(session: Session, namespace: str, name: str) -> bool:
    """Whether any version of ``name`` is stored."""
    same_name = DocumentTable.namespace == namespace, DocumentTable.name == name
    return session.scalar(select(DocumentTable.id).where(*same_name).limit(1)) is not None


def kin(session: Session, documents: Sequence[DocumentTable]) -> list[DocumentTable]:
    """Every stored version whose deltas were made from deltas of these, or from those in turn."""
    known = {row.id for row in documents}
    found: list[DocumentTable] = []
    edge = list(known)
    while edge:
        parents = select(DeltaTable.id).join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        children = (
            select(DocumentTable)
            .join(PassageTable, PassageTable.document_id == DocumentTable.id)
            .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
            .join(LineageTable, LineageTable.child == DeltaTable.id)
            .where(
                or_(
                    LineageTable.parent.in_(parents.where(PassageTable.document_id.in_(edge))),
                    LineageTable.parent.in_([member.id for member in partners(session, edge)]),
                )
            )
        )
        rows = {row.id: row for row in session.scalars(children)}  # several deltas of one
        new = [row for row in rows.values() if row.id not in known]
        edge = [row.id for row in new]
        known.update(edge)
        found += new
    return found


def chosen(
    session: Session, namespace: str, names: Iterable[str] | None, where: Filter | None
) -> list[DocumentTable]:
    """The active documents that are named and meet ``where``; NotFound for a lost name."""
    query = active_documents(namespace)
    if where is not None:
        query = query.where(condition(where))
    if names is None:
        return list(session.scalars(query))
    rows = []
    for name in dict.fromkeys(names):
        found = session.scalar(query.where(DocumentTable.name == name))
        if found is None:
            raise no_document(namespace, name)
        rows.append(found)
    return rows


def no_document(namespace: str, name: str) -> NotFound:
    """The error for a name that is not there."""
    return NotFound(
        f"there is no document {name!r} in namespace {namespace!r}", hint="`adb list` shows all"
    )


def crc(data: str | bytes) -> int:
    """CRC-32 that tells whether a text or a vector is still what was stored."""
    return zlib.crc32(data.encode() if isinstance(data, str) else data)


def _replace(session: Session, row: DocumentTable, moment: Moment) -> None:
    """Make ``row`` the active version of its name as of ``moment``."""
    same_name = DocumentTable.namespace == row.namespace, DocumentTable.name == row.name
    active = session.scalar(active_documents(None).where(*same_name))
    if active is not None:
        withdraw(session, active, "retired", moment.seq)
    last = session.scalar(select(func.max(ChangeTable.version)).where(*_logged(row)))
    row.version, row.state, row.seq, row.created_at = (last or 0) + 1, "active", *moment
    session.add(row)
    session.flush()
    session.add_all(_field_rows(row.id, row.fields))


def _logged(row: DocumentTable) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The changes of a name: versions are counted there, so that none is used twice after gc."""
    return ChangeTable.namespace == row.namespace, ChangeTable.name == row.name


def _add_passages(
    session: Session,
    row: DocumentTable,
    passages: Sequence[Values],
    deltas: Sequence[Values],
    parents: Mapping[str, Sequence[str]],
) -> None:
    """Add the parts of a document: a statement for each table, for documents may be long."""
    numbered = insert(PassageTable).returning(PassageTable.id, sort_by_parameter_order=True)
    ids = session.scalars(numbered, passages).all()
    placed = [{**delta, "passage_id": i} for delta, i in zip(deltas, ids, strict=True)]
    session.execute(insert(DeltaTable), placed)
    changes = [{"namespace": row.namespace, "op": "put", "passage_id": i} for i in ids]
    session.execute(insert(OutboxTable), changes)
    lineage = [{"child": c, "parent": p} for c, made_from in parents.items() for p in made_from]
    if lineage:
        session.execute(insert(LineageTable), lineage)


def _values(row: DocumentTable | PassageTable | DeltaTable) -> Values:
    """What a row holds, but for a numbered id, which a copy gets anew."""
    values = {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
    if isinstance(values["id"], int):
        del values["id"]
    return values


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


def _passage(document_id: int, new: NewPassage) -> Values:
    passage, vector = new.passage, new.vector.astype("<f4").tobytes()
    return {
        "document_id": document_id,
        "ordinal": passage.ordinal,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
        "tokens": passage.tokens,
        "vector": vector,
        "text_crc": crc(passage.text),
        "vector_crc": crc(vector),
    }


def _delta_id(document: DocumentTable, ordinal: int, row_sha256: str) -> str:
    parts = (document.namespace, document.name, document.version, ordinal, row_sha256)
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def _new_delta(document: DocumentTable, new: NewPassage, info: StoreInfo) -> Values:
    return {
        "id": _delta_id(document, new.passage.ordinal, new.row.sha256),
        "kind": new.kind,
        "file": new.row.file,
        "offset": new.row.offset,
        "size_bytes": new.row.size_bytes,
        "dtype": new.row.dtype,
        "sha256": new.row.sha256,
        "norm": new.row.norm,
        "recipe": new.recipe,
        "loss_before": new.loss_before,
        "loss_after": new.loss_after,
        "loss_shifted": new.loss_shifted,
        "own": new.own,
        "flag": new.flag,
        "base_fingerprint": info.base_fingerprint,
        "layout_fingerprint": info.layout.fingerprint,
        "meta_init_fingerprint": new.meta_init_fingerprint,
        "prototype": sealed(new.prototype),
        "created_at": document.created_at,
    }


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
