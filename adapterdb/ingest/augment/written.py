"""What writing about a document came to: augmentations, fields, and an account of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterdb.records import Augmentation, Fact, Passage, Record


@dataclass(frozen=True)
class Lack(Record):
    """Something that was wanted of a document and is not there.

    Args:
        document: its name.
        start: of the passage, in characters; -1 where it is not about one passage.
        step: ``theme``, ``facts``, ``seed``, ``roles``, ``qa``, ``held_out``, ``rewrite``,
            ``tags``, or ``document``.
        reason: why, for people.
    """

    document: str
    start: int
    step: str
    reason: str


@dataclass(frozen=True)
class Piece:
    """A passage to be written about."""

    document: str
    title: str
    passage: Passage


@dataclass
class PassageWriting:
    """What was written about one passage; filled step by step.

    ``full_answers`` has one entry for each pair of ``qa``, or is empty.
    """

    theme: str = ""
    rewrite: str = ""
    qa: list[tuple[str, str]] = field(default_factory=list)
    full_answers: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def entry(self, passage: Passage) -> dict[str, Any]:
        """As a row holds it."""
        written = Augmentation(
            passage.start,
            passage.end,
            self.theme,
            self.rewrite,
            tuple(self.qa),
            tuple(self.facts),
        )
        return entry_of(written, self.full_answers)


@dataclass
class Account:
    """Of one document: what was left out on purpose, what is lacking, what the model can't do.

    Args:
        skipped: how many, by reason.
        lacks: what failed after the last retry.
        notes: one sentence each.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    lacks: list[Lack] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    def lack(self, piece: Piece, step: str, reason: str) -> None:
        """Note that something failed."""
        self.lacks.append(Lack(piece.document, piece.passage.start, step, reason))


def entry_of(augmentation: Augmentation, full_answers: Sequence[str] = ()) -> dict[str, Any]:
    """What a row's ``augmented`` holds about one passage, empty parts left out.

    Args:
        full_answers: as whole sentences, one for each pair of ``qa``; or none.
    """
    qa = _pairs(augmentation.qa)
    for pair, full in zip(qa, full_answers, strict=False):
        pair["full_answer"] = full
    entry: dict[str, Any] = {
        "start": augmentation.start,
        "end": augmentation.end,
        "theme": augmentation.theme,
        "rewrite": augmentation.rewrite,
        "qa": qa,
        "facts": [
            {
                "text": fact.text,
                "roles": list(fact.roles),
                "qa": _pairs(fact.qa),
                "held_out": _pairs(fact.held_out),
            }
            for fact in augmentation.facts
        ],
    }
    return {k: v for k, v in entry.items() if v not in ("", [])}


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in pairs]
