"""The catalog of documents and deltas: committing, deleting, listing, counting.

How a version is born and withdrawn is in ``versions``; queries over passages and their vectors are
in ``passages``, over pending index changes in ``outbox``. Nothing outside this folder speaks SQL,
and every query that answers for a namespace names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import cast
from uuid import uuid4

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt, Exists, InvalidInput, Mismatch, NotFound
from adapterdb.records import Delta, DeltaKind, StoredDocument
from adapterdb.store.changes import Moment, tick
from adapterdb.store.conditions import condition
from adapterdb.store.filters import Filter
from adapterdb.store.headers import FileShape
from adapterdb.store.migrations import FORMAT, check_format, migrate, stored_format
from adapterdb.store.prototypes import unsealed
from adapterdb.store.rows import NewDocument, RowRef, StoreInfo
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import (
    DeltaTable,
    DocumentTable,
    InfoTable,
    PassageTable,
    WeightFileTable,
)
from adapterdb.store.versions import (
    active_documents,
    add_document,
    chosen,
    delete_documents,
    no_document,
    revive,
    stored,
)

MIN_PREFIX = 6


class Catalog:
    """Documents and deltas in SQL."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # what the store was made with

    def found(self, info: StoreInfo) -> str:
        """Make a new store in an empty database; its uuid. Exists if there are documents."""
        with self._sessions.migrating() as connection:
            migrate(connection)
        # a creation that was broken off leaves tables, but no document
        if self.documents(None, None, 1, 0):
            raise Exists("the catalog holds documents of another store")
        uuid, number = uuid4().hex, str(FORMAT)
        own = {"format": number, "min_reader": number, "uuid": uuid}
        with self._sessions.writing() as session:
            self.remember(session, info.to_texts() | own)
        return uuid

    def bring_up_to_date(self, *, read_only: bool) -> None:
        """Migrate tables older than this program; Mismatch (code ``format``) if they are newer."""
        with self._sessions.reading() as session:
            found = stored_format(session.connection())
        check_format(found, found)
        if found == FORMAT:
            return
        if not found:
            raise Corrupt("the catalog holds no store", code="lost_catalog")
        if read_only:
            raise Mismatch(
                f"the store has the older format {found}",
                code="format",
                hint="open it once for writing (`adb optimize` does), which brings it up to date",
            )
        with self._sessions.migrating() as connection:
            migrate(connection)

    def info(self) -> dict[str, str]:
        """Everything the store remembers about itself."""
        with self._sessions.reading() as session:
            rows = session.execute(select(InfoTable.name, InfoTable.value))
            return {row.name: row.value for row in rows}

    def remember(self, session: Session, values: Mapping[str, str]) -> None:
        """Set what the store remembers under these names, in a writing transaction."""
        session.execute(delete(InfoTable).where(InfoTable.name.in_(values)))
        entries = [{"name": name, "value": value} for name, value in values.items()]
        session.execute(insert(InfoTable), entries)

    # changing

    def commit(
        self,
        session: Session,
        documents: Sequence[NewDocument],
        files: Mapping[str, FileShape],
        info: StoreInfo,
    ) -> list[StoredDocument]:
        """Add documents to the writing transaction ``session``, retiring what they replace."""
        first = tick(session, len(documents))
        known = set(
            session.scalars(
                select(WeightFileTable.name).where(WeightFileTable.name.in_(list(files)))
            )
        )
        for name in files.keys() - known:
            shape = files[name]
            session.add(WeightFileTable(name=name, size_bytes=shape.size_bytes, rows=shape.rows))
        session.flush()
        return [
            add_document(session, new, Moment(first.seq + i, first.at), info)
            for i, new in enumerate(documents)
        ]

    def delete(self, namespace: str, names: Iterable[str] | None, where: Filter | None) -> int:
        """Take documents, and what was derived from them, out of every answer; how many chosen."""
        with self._sessions.writing() as session:
            tick(session, 0)
            rows = chosen(session, namespace, names, where)
            delete_documents(session, rows)
            return len(rows)

    def rollback(self, namespace: str, name: str, version: int) -> StoredDocument:
        """Make a version the active one again, as a new version; NotFound if it is not stored."""
        with self._sessions.writing() as session:
            moment = tick(session)
            old = session.scalar(
                select(DocumentTable).where(
                    DocumentTable.namespace == namespace,
                    DocumentTable.name == name,
                    DocumentTable.version == version,
                    DocumentTable.forget.is_(False),
                )
            )
            if old is None:
                raise NotFound(
                    f"version {version} of document {name!r} is not stored in namespace"
                    f" {namespace!r}",
                    hint="`adb history` shows the versions that are",
                )
            return revive(session, old, moment)

    def count_chosen(
        self, namespace: str, names: Iterable[str] | None, where: Filter | None
    ) -> int:
        """How many documents ``delete`` would take out."""
        with self._sessions.reading() as session:
            return len(chosen(session, namespace, names, where))

    # listing

    def current_key(self, namespace: str, name: str) -> str | None:
        """The key of the active version of ``name``."""
        query = active_documents(namespace).with_only_columns(DocumentTable.key)
        with self._sessions.reading() as session:
            return session.scalar(query.where(DocumentTable.name == name))

    def documents(
        self,
        namespace: str | None,
        where: Filter | None,
        limit: int,
        offset: int,
        as_of: int | None = None,
    ) -> list[StoredDocument]:
        """Active documents, or those of an earlier moment, by namespace and name."""
        query = active_documents(namespace, as_of).order_by(
            DocumentTable.namespace, DocumentTable.name
        )
        if where is not None:
            query = query.where(condition(where))
        with self._sessions.reading() as session:
            rows = session.scalars(query.limit(limit).offset(offset))
            return [stored(row) for row in rows]

    def document(self, namespace: str, name: str) -> StoredDocument:
        """The active version of ``name``, or a version not deleted, asked for as ``name@3``."""
        with self._sessions.reading() as session:
            row = session.scalar(active_documents(namespace).where(DocumentTable.name == name))
            base, at, version = name.rpartition("@")
            if row is None and at and version.isascii() and version.isdigit() and len(version) < 10:
                query = select(DocumentTable).where(
                    DocumentTable.namespace == namespace,
                    DocumentTable.name == base,
                    DocumentTable.version == int(version),
                    DocumentTable.state != "deleted",
                )
                row = session.scalar(query)
            if row is None:
                raise no_document(namespace, name)
            return stored(row)

    def text(self, document_id: int) -> str:
        """The whole text of a document version."""
        query = select(DocumentTable.text, DocumentTable.text_sha256).where(
            DocumentTable.id == document_id, DocumentTable.state != "deleted"
        )
        with self._sessions.reading() as session:
            found = session.execute(query).one_or_none()
        if found is None:
            raise NotFound(f"there is no document with the id {document_id}")
        if hashlib.sha256(found.text.encode()).hexdigest() != found.text_sha256:
            raise Corrupt(
                f"the stored text of document {document_id} does not match its sha256",
                code="row_crc",
                hint="ingest the document again, or restore a backup",
            )
        return str(found.text)

    def namespaces(self) -> list[str]:
        """Namespaces with an active document."""
        query = active_documents(None).with_only_columns(DocumentTable.namespace).distinct()
        with self._sessions.reading() as session:
            return sorted(session.scalars(query))

    def deltas(self, document_id: int) -> list[Delta]:
        """The deltas of a document version, in the order of its passages."""
        query = _deltas().where(DocumentTable.id == document_id, DocumentTable.state != "deleted")
        with self._sessions.reading() as session:
            rows = session.execute(query.order_by(PassageTable.ordinal))
            return [_delta(*row) for row in rows]

    def delta(self, prefix: str) -> Delta:
        """A delta of a document that is not deleted, by its id or a unique beginning of it."""
        if len(prefix) < MIN_PREFIX:
            raise InvalidInput(f"{prefix!r} is too short for a delta id: {MIN_PREFIX} or more")
        query = _deltas().where(
            DeltaTable.id.startswith(prefix, autoescape=True), DocumentTable.state != "deleted"
        )
        with self._sessions.reading() as session:
            rows = session.execute(query.order_by(DeltaTable.id).limit(2)).all()
        if not rows:
            raise NotFound(f"there is no delta with the id {prefix!r}")
        if len(rows) > 1 and rows[0][0].id != prefix:
            raise InvalidInput(f"several delta ids begin with {prefix!r}", code="ambiguous")
        return _delta(*rows[0])

    def row_refs(self, delta_ids: Sequence[str]) -> dict[str, RowRef]:
        """Where the rows of these deltas lie, of those whose document is active."""
        query = _deltas().with_only_columns(DeltaTable)
        query = query.where(DeltaTable.id.in_(delta_ids), DocumentTable.state == "active")
        with self._sessions.reading() as session:
            return {row.id: row_ref(row) for row in session.scalars(query)}

    def prototypes(self, delta_ids: Sequence[str]) -> dict[str, bytes]:
        """The prototypes of these deltas, of those whose document is active; empty: none kept."""
        query = _deltas().with_only_columns(DeltaTable.id, DeltaTable.prototype)
        query = query.where(DeltaTable.id.in_(delta_ids), DocumentTable.state == "active")
        with self._sessions.reading() as session:
            return {row.id: unsealed(row.prototype) for row in session.execute(query)}

    def moved(self, row: RowRef) -> RowRef | None:
        """Where the bytes of a row lie now, if another file has them."""
        query = select(DeltaTable).where(
            DeltaTable.sha256 == row.sha256, DeltaTable.file != row.file
        )
        with self._sessions.reading() as session:
            found = session.scalars(query.limit(1)).first()
            return None if found is None else row_ref(found)

    def all_row_refs(self) -> list[tuple[str, RowRef]]:
        """Delta id and row of every delta, of retired and deleted documents too."""
        with self._sessions.reading() as session:
            return [(row.id, row_ref(row)) for row in session.scalars(select(DeltaTable))]

    def weight_files(self) -> dict[str, int]:
        """Every weight file that a delta or the store itself names, and its size (0: not known)."""
        tensors = select(InfoTable.value).where(InfoTable.name.startswith("tensors:"))
        with self._sessions.reading() as session:
            found = dict.fromkeys(session.scalars(tensors), 0)
            rows = session.execute(select(WeightFileTable.name, WeightFileTable.size_bytes))
            return found | {row.name: row.size_bytes for row in rows}


def row_ref(row: DeltaTable) -> RowRef:
    """Where the row of a delta lies."""
    dtype = cast(DeltaDtype, row.dtype)
    return RowRef(row.file, row.offset, row.size_bytes, dtype, row.sha256, row.norm)


def _deltas() -> Select[DeltaTable, PassageTable, DocumentTable]:
    return (
        select(DeltaTable, PassageTable, DocumentTable)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
    )


def _delta(delta: DeltaTable, passage: PassageTable, document: DocumentTable) -> Delta:
    return Delta(
        id=delta.id,
        kind=cast(DeltaKind, delta.kind),
        namespace=document.namespace,
        document=document.name,
        version=document.version,
        passage_id=passage.id,
        start=passage.start,
        end=passage.end,
        dtype=delta.dtype,
        size_bytes=delta.size_bytes,
        norm=delta.norm,
        recipe=delta.recipe,
        loss_before=delta.loss_before,
        loss_after=delta.loss_after,
        created_at=delta.created_at,
        loss_shifted=delta.loss_shifted,
        flag=delta.flag,
        own=delta.own,
        damaged=delta.damaged,
        shared_start=delta.meta_init_fingerprint,
    )
