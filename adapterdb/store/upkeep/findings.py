"""What a check finds and what a repair has done: plain records, and the words that mend things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapterdb.records import Record

Severity = Literal["error", "warning", "note"]

REPAIR = "run `adb fsck --repair`"
RESTORE = "restore a backup"
INGEST = "ingest the document again, or restore a backup"


@dataclass(frozen=True)
class Finding(Record):
    """Something that is not as it should be.

    Args:
        code: stable word for the kind of defect.
        severity: ``error``: something stored can't be used; ``warning``: something is slow or
            stale, but no answer is wrong; ``note``: space is wasted, or may come to be missed.
        what: what is wrong, for people.
        mend: what mends it.
        repairable: ``repair`` mends it, or does all that can be done without the document.
        namespace, document: whose it is (``name@version``); empty where it is nobody's.
        id: what is concerned: a file's or delta's name, a document's number, a path in the home.
    """

    code: str
    severity: Severity
    what: str
    mend: str = REPAIR
    repairable: bool = True
    namespace: str = ""
    document: str = ""
    id: str = ""


@dataclass(frozen=True)
class Repaired(Record):
    """A kind of defect, what was concerned, and what repair did about it."""

    code: str
    what: str
    done: str


def severity_of(state: str) -> Severity:
    """How bad it is that a document version in this state can't be used as a whole."""
    return {"active": "error", "retired": "warning"}.get(state, "note")  # type: ignore[return-value]


def named(count: int, what: str, example: object) -> str:
    """``count`` things in words, with one of them."""
    return f"{count} {what}, for example {example}" if count > 1 else f"1 {what}: {example}"
