"""The order of changes: the clock every change moves, the log it leaves, and moments named in text.

Time never decides anything: changes are ordered by number, and a date stands for the last change
made by then. The clock's one row is written first in every transaction that changes documents, so
that on any database such transactions wait for each other and commit in the order of their numbers.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, time
from typing import NamedTuple, cast

from sqlalchemy import case, exists, func, select, update
from sqlalchemy.orm import Session

from adapterdb.errors import InvalidInput
from adapterdb.records import Change, ChangeKind
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import ChangeTable, ClockTable, DocumentTable

LATEST = 500  # changes of one name that ``of_name`` gives at most


class Moment(NamedTuple):
    """The number of a change, and when it was committed."""

    seq: int
    at: str


class Changes:
    """What happened to documents, in order."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def now(self) -> Moment:
        """The last change; number 0 where there is none."""
        with self._sessions.reading() as session:
            return Moment(*session.execute(select(ClockTable.seq, ClockTable.at)).one())

    def of_name(self, namespace: str, name: str) -> list[Change]:
        """What happened to the document ``name``, latest first."""
        kept = exists().where(
            DocumentTable.namespace == namespace,
            DocumentTable.name == name,
            DocumentTable.version == ChangeTable.version,
            DocumentTable.forget.is_(False),
        )
        query = (
            select(ChangeTable, kept)
            .where(ChangeTable.namespace == namespace, ChangeTable.name == name)
            .order_by(ChangeTable.seq.desc())
            .limit(LATEST)
        )
        with self._sessions.reading() as session:
            return [_change(row, kept) for row, kept in session.execute(query)]

    def resolve(self, moment: int | str) -> int:
        """The number of the last change as of ``moment``.

        Args:
            moment: a change number, or a date or time in ISO form (UTC unless it says otherwise);
                a date alone means its end.

        Raises:
            InvalidInput: for other text, a number that is not there yet, or (code ``too_old``) a
                moment whose documents have since been collected.
        """
        with self._sessions.reading() as session:
            clock = session.execute(select(ClockTable.seq, ClockTable.horizon)).one()
            if isinstance(moment, int) or moment.strip().isdecimal():
                seq = int(moment)
            else:
                at = _time(moment)
                query = select(func.max(ChangeTable.seq)).where(ChangeTable.at <= at)
                seq = session.scalar(query) or 0
        if not 0 <= seq <= clock.seq:
            raise InvalidInput(f"there is no change {seq}; the last one is {clock.seq}")
        if seq < clock.horizon:
            raise InvalidInput(
                f"what was there as of change {seq} is no longer complete: versions replaced before"
                f" change {clock.horizon} have been collected",
                code="too_old",
                hint="ask as of a later change; how long versions are kept is set in [retention]",
            )
        return seq


def tick(session: Session, count: int = 1) -> Moment:
    """Move the clock by ``count`` changes; the first of their numbers, and their time.

    To be called before anything else is read or written in a transaction that changes documents.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    found = session.execute(
        update(ClockTable)
        .values(
            seq=ClockTable.seq + count,
            at=case((ClockTable.at > now, ClockTable.at), else_=now),
        )
        .returning(ClockTable.seq, ClockTable.at)
    ).one()
    return Moment(found.seq - count + 1, found.at)


def note(session: Session, moment: Moment, op: ChangeKind, document: DocumentTable) -> None:
    """Write a change of ``document`` into the log."""
    session.add(
        ChangeTable(
            seq=moment.seq,
            at=moment.at,
            op=op,
            namespace=document.namespace,
            name=document.name,
            version=document.version,
        )
    )


def name_hash(namespace: str, name: str) -> str:
    """What stands for the name of a forgotten document."""
    return "sha256:" + hashlib.sha256(f"{namespace}\0{name}".encode()).hexdigest()


def forget_name(session: Session, namespace: str, name: str) -> None:
    """Put its hash in the place of ``name`` wherever the log has it."""
    chosen = ChangeTable.namespace == namespace, ChangeTable.name == name
    session.execute(update(ChangeTable).where(*chosen).values(name=name_hash(namespace, name)))


def is_logged(session: Session, namespace: str, name: str) -> bool:
    """Whether anything is known of what happened to ``name``."""
    found = exists().where(ChangeTable.namespace == namespace, ChangeTable.name == name)
    return bool(session.scalar(select(found)))


def raise_horizon(session: Session, seq: int) -> None:
    """As of changes before ``seq`` no longer everything can be found."""
    later = case((ClockTable.horizon > seq, ClockTable.horizon), else_=seq)
    session.execute(update(ClockTable).values(horizon=later))


def _time(text: str) -> str:
    """A date or time as the log writes times."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidInput(
            f"{text[:40]!r} is no moment: give a change number, a date like 2026-01-31, or a time"
            " like 2026-01-31T18:00",
        ) from error
    if len(text.strip()) <= len("2026-01-31"):
        moment = datetime.combine(moment.date(), time.max)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")
    except OverflowError as error:
        raise InvalidInput(f"{text!r} is outside the years 1 to 9999") from error


def _change(row: ChangeTable, kept: bool) -> Change:
    op = cast(ChangeKind, row.op)
    return Change(row.seq, row.at, op, row.namespace, row.name, row.version, kept)
