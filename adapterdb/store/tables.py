"""The catalog's tables, as declarations. Queries over them live in ``catalog`` alone.

Ids count upwards and are never used again (``AUTOINCREMENT``): an index row left behind by a
crash can therefore only name a passage that is gone, never another one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    true,
)
from sqlalchemy import text as sql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite gives row ids only to INTEGER; elsewhere 10^8 passages ask for 64 bits
BigId = BigInteger().with_variant(Integer(), "sqlite")
# sorted and compared by code point, as SQLite does
Name = String().with_variant(String(collation="C"), "postgresql")
NEVER_REUSED = {"sqlite_autoincrement": True}
STATES = ("active", "retired", "deleted")
CHANGES = ("put", "rollback", "delete", "forget")
WITHDRAWN = "withdrawn"  # flag of a delta whose row was made from something deleted since


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(repr, words))})"


class Table(DeclarativeBase):
    """Base of all tables."""


class InfoTable(Table):
    """What the store was made with, as names and texts; ``tensors:x`` holds a file's name."""

    __tablename__ = "store_info"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class ClockTable(Table):
    """One row. Whoever changes documents moves it first: changes are committed in its order.

    ``seq`` is the number of the last change, ``at`` its time (UTC, never running backwards),
    ``horizon`` the earliest number as of which everything is still there to be found.
    """

    __tablename__ = "clock"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[str] = mapped_column(Name)
    horizon: Mapped[int] = mapped_column(BigInteger)


class ChangeTable(Table):
    """What happened to documents, in order. Of forgotten ones only a hash of the name is left."""

    __tablename__ = "change"
    __table_args__ = (
        Index("change_name", "namespace", "name"),
        CheckConstraint(_one_of("op", CHANGES), name="change_op"),
    )

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(Name)
    op: Mapped[str] = mapped_column(String)
    namespace: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    version: Mapped[int] = mapped_column(Integer)


class DocumentTable(Table):
    """One version of a document: found from change ``seq`` on, until change ``until_seq``."""

    __tablename__ = "document"
    __table_args__ = (
        UniqueConstraint("namespace", "name", "version"),
        Index(
            "document_active",
            "namespace",
            "name",
            unique=True,
            sqlite_where=sql("state = 'active'"),
            postgresql_where=sql("state = 'active'"),
        ),
        CheckConstraint(_one_of("state", STATES), name="document_state"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    namespace: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    version: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String)
    title: Mapped[str] = mapped_column(Name)
    source: Mapped[str] = mapped_column(Name)
    text: Mapped[str] = mapped_column(Text)
    text_sha256: Mapped[str] = mapped_column(String)
    key: Mapped[str] = mapped_column(String)
    # not ``metadata``: that name belongs to SQLAlchemy
    fields: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    passages: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[str] = mapped_column(Name)
    seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    until_seq: Mapped[int | None] = mapped_column(BigInteger)
    # deleted, and to be erased from every file
    forget: Mapped[bool] = mapped_column(Boolean, server_default=false())


class FieldTable(Table):
    """Metadata spread out for filters: one row for each value, several for a list.

    ``number`` is set where the value is, or reads as, a finite number.
    """

    __tablename__ = "document_field"
    __table_args__ = (Index("document_field_key", "key", "document_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"), index=True)
    key: Mapped[str] = mapped_column(Name)
    text: Mapped[str] = mapped_column(Name)
    number: Mapped[float | None]


class PassageTable(Table):
    """A passage and its vector: float32, little-endian, unit length; and a CRC-32 of each."""

    __tablename__ = "passage"
    __table_args__ = (UniqueConstraint("document_id", "ordinal"), NEVER_REUSED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"))
    ordinal: Mapped[int] = mapped_column(Integer)
    start: Mapped[int] = mapped_column("start_char", Integer)
    end: Mapped[int] = mapped_column("end_char", Integer)
    text: Mapped[str] = mapped_column(Text)
    tokens: Mapped[int] = mapped_column(Integer)
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    text_crc: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    vector_crc: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))


class WeightFileTable(Table):
    """An immutable file of rows; its name is the sha256 of its bytes."""

    __tablename__ = "weight_file"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(Integer)


class ClaimTable(Table):
    """A weight file that a writer is about to write and name in the catalog.

    Claimed before the file exists, dropped by the commit that names it: what is neither named nor
    claimed by a writer that lives is nobody's.
    """

    __tablename__ = "claim"

    file: Mapped[str] = mapped_column(String, primary_key=True)
    writer: Mapped[str] = mapped_column(String, primary_key=True)


class DeltaTable(Table):
    """A delta: where its row lies, how to know it is intact, what it was made with.

    Deltas of a cluster name one row. ``own``: its own passage is among those the row was made from.
    ``damaged``: the row can't be read, or (``flag`` says WITHDRAWN) must not be used any more: it
    is passed over until made again. Any other ``flag`` says why the delta is doubted.
    ``prototype``: see ``prototypes``; NULL where it is still to be computed from the row.
    """

    __tablename__ = "delta"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    passage_id: Mapped[int] = mapped_column(ForeignKey("passage.id"), unique=True)
    kind: Mapped[str] = mapped_column(String)
    file: Mapped[str] = mapped_column(ForeignKey("weight_file.name"), index=True)
    offset: Mapped[int] = mapped_column("row_offset", BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String)
    sha256: Mapped[str] = mapped_column(String)
    norm: Mapped[float]
    recipe: Mapped[str] = mapped_column(String)
    loss_before: Mapped[float | None]
    loss_after: Mapped[float | None]
    loss_shifted: Mapped[float | None]
    base_fingerprint: Mapped[str] = mapped_column(String)
    layout_fingerprint: Mapped[str] = mapped_column(String)
    meta_init_fingerprint: Mapped[str] = mapped_column(String)
    created_at: Mapped[str] = mapped_column(Name)
    damaged: Mapped[bool] = mapped_column(Boolean, server_default=false())
    own: Mapped[bool] = mapped_column(Boolean, server_default=true())
    flag: Mapped[str] = mapped_column(String, server_default="")
    prototype: Mapped[bytes | None] = mapped_column(LargeBinary)


class LineageTable(Table):
    """A delta that was made from another, and must go when that one goes."""

    __tablename__ = "lineage"

    child: Mapped[str] = mapped_column(ForeignKey("delta.id"), primary_key=True)
    parent: Mapped[str] = mapped_column(ForeignKey("delta.id"), primary_key=True, index=True)


class OutboxTable(Table):
    """A change of the index that is committed here and still to be applied there."""

    __tablename__ = "outbox"
    __table_args__ = (CheckConstraint("op IN ('put', 'delete')", name="outbox_op"), NEVER_REUSED)

    seq: Mapped[int] = mapped_column(BigId, primary_key=True)
    namespace: Mapped[str] = mapped_column(Name, index=True)
    op: Mapped[str] = mapped_column(String)
    # no foreign key: a passage may be forgotten while its removal from the index is pending
    passage_id: Mapped[int] = mapped_column(BigInteger)


class GenerationTable(Table):
    """Which generation of a namespace's index is the one to read; none yet means 1."""

    __tablename__ = "index_generation"

    namespace: Mapped[str] = mapped_column(Name, primary_key=True)
    number: Mapped[int] = mapped_column(Integer)


class ErasureTable(Table):
    """A namespace from which something was forgotten whose bytes may still be in files."""

    __tablename__ = "erasure"

    namespace: Mapped[str] = mapped_column(Name, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
