"""What is wrong in the catalog itself: the database, its numbers, its texts, what hangs on what.

Reads only. Whatever grows with the home is read page by page, each in a transaction of its own, so
that no log has to be kept for a check that takes long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from adapterdb.errors import Corrupt
from adapterdb.store.damage import AGAIN
from adapterdb.store.encoding import stored_bytes
from adapterdb.store.prototypes import size_bytes, unsealed
from adapterdb.store.tables import (
    WITHDRAWN,
    ChangeTable,
    ClockTable,
    DeltaTable,
    DocumentTable,
    LineageTable,
    OutboxTable,
    PassageTable,
)
from adapterdb.store.upkeep.findings import INGEST, REPAIR, RESTORE, Finding, severity_of
from adapterdb.store.upkeep.forget import unfinished
from adapterdb.store.versions import crc

if TYPE_CHECKING:
    from adapterdb.store.store import Store

PAGE = 16  # documents whose texts are held at once
PROTOTYPES = 1000  # held at once
OTHER_HOME = "delete the document, then ingest it again"


def database(store: Store, *, deep: bool) -> Iterator[Finding]:
    """What SQLite says is wrong with its own file; other databases watch over themselves."""
    if not store.sessions.is_sqlite:
        return
    try:
        with store.sessions.reading() as session:
            run = session.connection().exec_driver_sql
            said = [str(row[0]) for row in run(f"PRAGMA {'integrity' if deep else 'quick'}_check")]
            broken = run("PRAGMA foreign_key_check").all()
    except Corrupt as error:
        said, broken = [error.message], []
    problems = [line for line in said if line != "ok"]
    problems += [
        f"a row of {row[0]} names a row of {row[2]} that is gone"
        for row in broken
        if row[0] != LineageTable.__tablename__  # said better by ``lineage``
    ]
    for problem in problems:
        yield Finding("catalog", "error", f"the catalog: {problem}", RESTORE, repairable=False)


def rows(store: Store) -> Iterator[Finding]:
    """Everything that can be asked of the catalog without reading texts."""
    with store.sessions.reading() as session:
        for look in (_clock, _counts, _twice, _strangers, _lineage, _outbox):
            yield from look(session, store)
    waiting = unfinished(store)
    if waiting:
        what = f"forgetting was broken off: {waiting} versions and namespaces wait for it"
        yield Finding("erasure_pending", "warning", what)


def texts(store: Store) -> Iterator[Finding]:
    """Texts and vectors that are not what was stored."""
    last = 0
    while True:
        with store.sessions.reading() as session:
            query = select(DocumentTable).where(DocumentTable.id > last)
            page = list(session.scalars(query.order_by(DocumentTable.id).limit(PAGE)))
            if not page:
                return
            last = page[-1].id
            found = [(row, text_problems(row, passages_of(session, row.id))) for row in page]
            restorable = [bool(said) and bool(restored(session, row)) for row, said in found]
        for (row, said), can_be in zip(found, restorable, strict=True):
            if said:
                marked = row.key.startswith(AGAIN)
                yield _of(row, "row_crc", said, can_be or not marked, INGEST)


def prototypes(store: Store) -> Iterator[Finding]:
    """Prototypes that are not what was stored: passed over, and computed when they are needed."""
    last, size = "", size_bytes(store.info.layout)
    while True:
        delta = DeltaTable.id.label("delta")
        query = _with_deltas(delta, DeltaTable.prototype).where(DeltaTable.id > last)
        with store.sessions.reading() as session:
            page = session.execute(query.order_by(DeltaTable.id).limit(PROTOTYPES)).all()
        if not page:
            return
        last = page[-1].delta
        for row in page:
            if row.prototype is not None and not unsealed(row.prototype, size):
                where = f"document {_label(row)!r} of namespace {row.namespace!r}"
                what = f"{where}: the prototype of delta {row.delta} is not as stored"
                names = {"namespace": row.namespace, "document": _label(row), "id": row.delta}
                yield Finding("prototype", "warning", what, **names)


def passages_of(session: Session, document_id: int) -> Sequence[PassageTable]:
    """The passages of a document version, whatever its state."""
    chosen = PassageTable.document_id == document_id
    return list(session.scalars(select(PassageTable).where(chosen).order_by(PassageTable.ordinal)))


def text_problems(document: DocumentTable, passages: Sequence[PassageTable]) -> str:
    """What of the texts and vectors of a document can't be what was stored; empty if nothing."""
    said = [] if _text_is_intact(document, document.text) else ["its text"]
    for row in passages:
        bad_text = crc(row.text) != row.text_crc
        elsewhere = not said and row.text != document.text[row.start : row.end]
        if bad_text or elsewhere:
            said.append(f"the text of passage {row.ordinal}")
        if crc(row.vector) != row.vector_crc:
            said.append(f"the vector of passage {row.ordinal}")
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return f"{', '.join(said[:3])}{more} not as stored" if said else ""


def restored(session: Session, document: DocumentTable) -> dict[str, Any]:
    """Texts proven to be the stored ones by their checksums: ``document``, or by passage id.

    A passage repeats a piece of its document's text, so either may be told from the other.
    """
    passages = passages_of(session, document.id)
    text = document.text
    if not _text_is_intact(document, text):
        for row in passages:
            if crc(row.text) == row.text_crc and len(row.text) == row.end - row.start:
                text = text[: row.start] + row.text + text[row.end :]
        return {"document": text} if _text_is_intact(document, text) else {}
    pieces = {
        row.id: text[row.start : row.end] for row in passages if crc(row.text) != row.text_crc
    }
    crcs = {row.id: row.text_crc for row in passages}
    return {str(i): piece for i, piece in pieces.items() if crc(piece) == crcs[i]}


def last_change(session: Session) -> int:
    """The largest number that any change has left in the catalog."""
    columns = ChangeTable.seq, DocumentTable.seq, DocumentTable.until_seq
    return max(session.scalar(select(func.max(column))) or 0 for column in columns)


def stuck(session: Session) -> list[tuple[int, str]]:
    """Numbers and namespaces of index changes that concern nothing of their namespace."""
    found = session.execute(
        select(OutboxTable.seq, OutboxTable.namespace)
        .outerjoin(PassageTable, PassageTable.id == OutboxTable.passage_id)
        .outerjoin(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .where(
            or_(
                DocumentTable.namespace != OutboxTable.namespace,
                # a removal may well outlive its passage
                and_(DocumentTable.id.is_(None), OutboxTable.op == "put"),
            )
        )
    )
    return [(row.seq, row.namespace) for row in found]


def _clock(session: Session, store: Store) -> Iterator[Finding]:
    seq, last = session.scalar(select(func.max(ClockTable.seq))), last_change(session)
    if seq is None or seq < last:
        what = f"the clock stands at change {seq}, the last change is {last}"
        yield Finding("clock", "error", what)


def _counts(session: Session, store: Store) -> Iterator[Finding]:
    """Documents with more or fewer passages or deltas than they were made with."""
    of = PassageTable.document_id
    passages = select(of, func.count().label("n")).group_by(of).subquery()
    deltas = (
        select(of, func.count().label("n"))
        .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
        .group_by(of)
        .subquery()
    )
    has, acts = func.coalesce(passages.c.n, 0), func.coalesce(deltas.c.n, 0)
    query = (
        select(*_NAMES, DocumentTable.passages, has.label("has"), acts.label("acts"))
        .outerjoin(passages, passages.c.document_id == DocumentTable.id)
        .outerjoin(deltas, deltas.c.document_id == DocumentTable.id)
        .where(or_(has != DocumentTable.passages, acts != DocumentTable.passages))
    )
    for row in session.execute(query):
        said = f"{row.passages} passages expected, {row.has} there, {row.acts} deltas"
        unmarked = not row.key.startswith(AGAIN)
        yield _of(row, "document_counts", said, unmarked, INGEST)


def _twice(session: Session, store: Store) -> Iterator[Finding]:
    """Names with several active versions, which only a database without its index lets be."""
    for namespace, name, count in session.execute(several_active()):
        what = f"document {name!r} of namespace {namespace!r} has {count} active versions"
        yield Finding("document_counts", "error", what, namespace=namespace, document=name)


def several_active() -> Select[str, str, int]:
    """Namespace and name of documents with several active versions, and how many."""
    key = DocumentTable.namespace, DocumentTable.name
    active = select(*key, func.count()).where(DocumentTable.state == "active")
    return active.group_by(*key).having(func.count() > 1)


def _strangers(session: Session, store: Store) -> Iterator[Finding]:
    """Documents whose deltas or vectors were made for another home than this one."""
    info = store.info
    form = or_(
        DeltaTable.dtype != info.dtype,
        DeltaTable.size_bytes != stored_bytes(info.dtype, info.layout.size),
        func.length(PassageTable.vector) != 4 * info.dimension,
    )
    made = or_(
        DeltaTable.base_fingerprint != info.base_fingerprint,
        DeltaTable.layout_fingerprint != info.layout.fingerprint,
    )
    words = {"format": "of another form", "fingerprint": "for another base model or layout"}
    for code, test in (("format", form), ("fingerprint", made)):
        query = _with_deltas(func.count(DeltaTable.id).label("n")).where(test)
        for row in session.execute(query.group_by(*_NAMES)):
            said = f"{row.n} deltas or vectors are {words[code]}"
            yield _of(row, code, said, False, OTHER_HOME)


def _lineage(session: Session, store: Store) -> Iterator[Finding]:
    """Derived deltas that still act though what they were made from does not, or is gone."""
    parent, made_from, origin = aliased(DeltaTable), aliased(PassageTable), aliased(DocumentTable)
    twin, of_twin, other = aliased(DeltaTable), aliased(PassageTable), aliased(DocumentTable)
    as_good = (  # brought back by a rollback: another delta on the same row
        exists()
        .where(twin.sha256 == parent.sha256, of_twin.id == twin.passage_id)
        .where(other.id == of_twin.document_id, other.state == "active")
        .where(other.namespace == origin.namespace, other.name == origin.name)
    )
    gone = or_(parent.id.is_(None), origin.state == "deleted")
    query = (
        select(*_NAMES, LineageTable.child, func.max(case((gone, 1), else_=0)).label("gone"))
        .select_from(LineageTable)
        .outerjoin(DeltaTable, DeltaTable.id == LineageTable.child)
        .outerjoin(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .outerjoin(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .outerjoin(parent, parent.id == LineageTable.parent)
        .outerjoin(made_from, made_from.id == parent.passage_id)
        .outerjoin(origin, origin.id == made_from.document_id)
        .where(
            or_(
                DeltaTable.id.is_(None),
                parent.id.is_(None),
                and_(DocumentTable.state == "active", origin.state != "active", ~as_good),
            )
        )
        .group_by(*_NAMES, LineageTable.child)
    )
    told: set[int] = set()
    for row in session.execute(query):
        if row.id is None or row.state != "active":
            what = f"delta {row.child} or what it was made from is gone, the note of it is not"
            yield Finding("derived_stale", "note", what, id=row.child)
        elif row.id not in told:
            told.add(row.id)
            where = f"document {row.name!r} of namespace {row.namespace!r} was derived from"
            names = {"namespace": row.namespace, "document": _label(row), "id": row.child}
            if row.gone:
                yield Finding("derived_stale", "error", f"{where} something deleted", **names)
            else:
                what = f"{where} a version that has been replaced"
                mend = "derive it anew, or delete it"
                yield Finding("derived_stale", "warning", what, mend, False, **names)


def _outbox(session: Session, store: Store) -> Iterator[Finding]:
    lost = stuck(session)
    counts = {
        row.namespace: row.n
        for row in session.execute(
            select(OutboxTable.namespace, func.count().label("n")).group_by(OutboxTable.namespace)
        )
    }
    for namespace, count in sorted(counts.items()):
        own = [seq for seq, name in lost if name == namespace]
        bad = len(own)
        where = f"namespace {namespace!r}"
        if bad:
            what = f"{where}: {bad} index changes, {own[0]} for one, concern no passage of it"
            yield Finding("outbox_stuck", "warning", what, namespace=namespace)
        if count > bad:
            what = f"{where}: {count - bad} index changes are committed, not yet applied"
            mend = "the next search or ingest applies them"
            yield Finding("outbox_pending", "warning", what, mend, namespace=namespace)


_NAMES = (
    DocumentTable.id,
    DocumentTable.namespace,
    DocumentTable.name,
    DocumentTable.version,
    DocumentTable.state,
    DocumentTable.key,
)


def damaged(session: Session) -> list[Any]:
    """Document versions with deltas marked as damaged: their names, and how many in ``n``.

    ``gone`` counts those of them whose row was withdrawn.
    """
    gone = func.sum(case((DeltaTable.flag == WITHDRAWN, 1), else_=0)).label("gone")
    query = _with_deltas(func.count(DeltaTable.id).label("n"), gone).where(DeltaTable.damaged)
    return list(session.execute(query.group_by(*_NAMES).order_by(DocumentTable.id)))


def is_damaged(row: Any, readable: int) -> Finding:
    """The finding for a row of ``damaged`` of whose deltas ``readable`` can be used again."""
    said = f"{row.n - row.gone} of its deltas are lost" if row.gone < row.n else ""
    if row.gone:
        said += f"{', ' if said else ''}{row.gone} of its deltas were made from something deleted"
    if readable:
        said += f", {readable} of which can be read again"
    return _of(row, "damaged", said, readable > 0, INGEST)


def _with_deltas(*columns: Any) -> Select[*tuple[Any, ...]]:
    return (
        select(*_NAMES, *columns)
        .join(PassageTable, PassageTable.document_id == DocumentTable.id)
        .join(DeltaTable, DeltaTable.passage_id == PassageTable.id)
    )


def _of(row: Any, code: str, said: str, repairable: bool, mend: str) -> Finding:
    """A finding about a document version."""
    return Finding(
        code,
        severity_of(row.state),
        f"document {_label(row)!r} of namespace {row.namespace!r}: {said}",
        f"{REPAIR}, then {mend}" if repairable else mend,
        repairable,
        row.namespace,
        _label(row),
        str(row.id),
    )


def _label(row: Any) -> str:
    return f"{row.name}@{row.version}"


def _text_is_intact(document: DocumentTable, text: str) -> bool:
    return hashlib.sha256(text.encode()).hexdigest() == document.text_sha256
