"""The catalog's format, one numbered step at a time, applied on open.

Each step takes a catalog from the format before to its own number, inside one transaction with all
others that are due. Steps never change once released; a new format is a new function at the end. A
new catalog is made at once as ``tables`` declares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count

from sqlalchemy import (
    Connection,
    LargeBinary,
    bindparam,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from adapterdb.errors import Corrupt, Mismatch
from adapterdb.store.tables import (
    ChangeTable,
    ClaimTable,
    ClockTable,
    DocumentTable,
    ErasureTable,
    InfoTable,
    LineageTable,
    OutboxTable,
    PassageTable,
    Table,
)
from adapterdb.store.versions import crc

Step = Callable[[Connection], None]
BATCH = 1000


def _step_2(connection: Connection) -> None:
    """History: a clock, a log of changes, how long versions were found. Checksums, lineage."""
    for statement in (
        "ALTER TABLE document ADD COLUMN until_seq BIGINT",
        "ALTER TABLE document ADD COLUMN forget BOOLEAN NOT NULL DEFAULT false",
        "ALTER TABLE passage ADD COLUMN text_crc BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE passage ADD COLUMN vector_crc BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE delta ADD COLUMN damaged BOOLEAN NOT NULL DEFAULT false",
        # it was that of the factors, which says nothing of what they do; 0 is not known
        "UPDATE delta SET norm = 0 WHERE kind <> 'gradient'",
    ):
        connection.execute(text(statement))
    new = (ClockTable, ChangeTable, ClaimTable, LineageTable, ErasureTable)
    Table.metadata.create_all(
        connection, tables=[Table.metadata.tables[t.__tablename__] for t in new]
    )
    for ids in _chunks(connection):
        rows = connection.execute(
            select(PassageTable.id, PassageTable.text, PassageTable.vector).where(
                PassageTable.id.in_(ids)
            )
        )
        found = [{"row": r.id, "of_text": crc(r.text), "of_vector": crc(r.vector)} for r in rows]
        change = update(PassageTable).where(PassageTable.id == bindparam("row"))
        connection.execute(
            change.values(text_crc=bindparam("of_text"), vector_crc=bindparam("of_vector")), found
        )
    _log_of_format_1(connection)


def _log_of_format_1(connection: Connection) -> None:
    """The changes that can be told from the documents; deletions left no time and come last."""
    columns = (
        DocumentTable.id,
        DocumentTable.namespace,
        DocumentTable.name,
        DocumentTable.version,
        DocumentTable.state,
        DocumentTable.seq,
        DocumentTable.created_at,
    )
    documents = connection.execute(select(*columns).order_by(DocumentTable.seq)).all()
    numbers = count(1 + max((document.seq for document in documents), default=0))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    starts = {(d.namespace, d.name, d.version): d.seq for d in documents}
    log, last, at = [], 0, now
    for document in documents:
        name = {"namespace": document.namespace, "name": document.name}
        entry = {**name, "version": document.version}
        log.append({**entry, "seq": document.seq, "at": document.created_at, "op": "put"})
        until = starts.get((document.namespace, document.name, document.version + 1))
        if document.state == "deleted":
            until = next(numbers)
            log.append({**entry, "seq": until, "at": now, "op": "delete"})
        if until is not None:
            chosen = update(DocumentTable).where(DocumentTable.id == document.id)
            connection.execute(chosen.values(until_seq=until))
    if log:
        connection.execute(insert(ChangeTable), log)
        last, at = max((entry["seq"], entry["at"]) for entry in log)
    clock = {"id": 1, "seq": last, "at": at, "horizon": 0}
    connection.execute(insert(ClockTable), [clock])


def _step_3(connection: Connection) -> None:
    """Deltas of clusters, doubts about deltas; titles and tags found by words."""
    for statement in (
        "ALTER TABLE delta ADD COLUMN own BOOLEAN NOT NULL DEFAULT true",
        "ALTER TABLE delta ADD COLUMN loss_shifted DOUBLE PRECISION",
        "ALTER TABLE delta ADD COLUMN flag VARCHAR NOT NULL DEFAULT ''",
        # the texts of the index are others now: without a generation it is built anew
        "DELETE FROM index_generation",
    ):
        connection.execute(text(statement))
    ask_for_index(connection)


def _step_4(connection: Connection) -> None:
    """Prototypes of deltas; those of deltas that are there already are computed when needed."""
    kind = LargeBinary().compile(dialect=connection.dialect)
    connection.execute(text(f"ALTER TABLE delta ADD COLUMN prototype {kind}"))


def ask_for_index(connection: Connection) -> None:
    """One pending change in each namespace without a generation: the applier then builds one."""
    passages = (
        select(DocumentTable.namespace, func.min(PassageTable.id).label("passage_id"))
        .join(PassageTable, PassageTable.document_id == DocumentTable.id)
        .where(DocumentTable.state == "active")
        .group_by(DocumentTable.namespace)
    )
    rows = [{**row, "op": "put"} for row in connection.execute(passages).mappings()]
    if rows:
        connection.execute(insert(OutboxTable), rows)


def _chunks(connection: Connection) -> Iterator[list[int]]:
    ids = list(connection.scalars(select(PassageTable.id)))
    for at in range(0, len(ids), BATCH):
        yield ids[at : at + BATCH]


# step n of the tuple leads to format n + 2: the first format is where every catalog began
STEPS: tuple[Step, ...] = (_step_2, _step_3, _step_4)
FORMAT = 1 + len(STEPS)


def _make(connection: Connection) -> None:
    """Make the tables of a new catalog."""
    Table.metadata.create_all(connection)
    clock = {"id": 1, "seq": 0, "at": "", "horizon": 0}
    if connection.scalar(select(ClockTable.id)) is None:
        connection.execute(insert(ClockTable), [clock])


def stored_format(connection: Connection) -> int:
    """The format of the catalog behind ``connection``; 0 if it holds none, Corrupt if unclear."""
    if not inspect(connection).has_table(InfoTable.__tablename__):
        return 0
    query = select(InfoTable.value).where(InfoTable.name == "format")
    found = connection.execute(query).scalar_one_or_none() or "0"
    if not (found.isascii() and found.isdigit()):
        raise Corrupt(
            f"the catalog's format reads {found[:20]!r}, no number",
            code="catalog",
            hint="restore a backup",
        )
    return int(found)


def check_format(found: int, min_reader: int) -> None:
    """Mismatch (code ``format``) if this program is too old to read a store."""
    if min_reader > FORMAT:
        raise Mismatch(
            f"the store has format {found} and asks for a program that knows {min_reader};"
            f" this one knows {FORMAT}",
            code="format",
            hint="install a newer AdapterDB",
        )


def migrate(connection: Connection) -> int:
    """Apply the steps that are due; the number applied. ``connection`` is in a write transaction.

    Raises:
        Mismatch: code ``format``, if the catalog is newer than this program; nothing is changed.
    """
    found = stored_format(connection)
    if found > FORMAT:
        check_format(found, found)
    if not found:
        _make(connection)
        return FORMAT
    for step in STEPS[found - 1 :]:
        step(connection)
    if found != FORMAT:
        value = str(FORMAT)
        names = ("format", "min_reader")
        connection.execute(update(InfoTable).where(InfoTable.name.in_(names)).values(value=value))
    return FORMAT - found
