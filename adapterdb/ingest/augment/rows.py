"""The file of augmented documents: a row for each, whole or not there, and which are done.

A row is a document as ``adb ingest`` reads it, with ``augmented`` and with ``augmented_by``, which
says what wrote it: generator, plan, what was skipped and what is lacking. ``ingest`` ignores that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterdb.errors import Exists, Rejected
from adapterdb.ingest.augment.lines import append_lines, cut_torn_line, read_lines, replace_lines
from adapterdb.ingest.augment.written import Lack, entry_of
from adapterdb.ingest.json_lines import NOT_METADATA
from adapterdb.records import Document, MetadataValue


def row_of(
    document: Document,
    fields: Mapping[str, MetadataValue],
    entries: list[dict[str, Any]],
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of a document.

    Args:
        fields: metadata written about it; ``tag`` adds to the tags it has.
        entries: what was written about its passages, after what it had before.
        made_by: for ``augmented_by``.

    Raises:
        Rejected: code ``bad_metadata`` if it has a field that means something else in a row.
    """
    clash = sorted(NOT_METADATA & set(document.metadata))
    if clash:
        raise Rejected(
            f"the metadata field {clash[0]!r} has another meaning in a row", code="bad_metadata"
        )
    metadata = {**document.metadata, **fields}
    if "tag" in fields:
        before = document.metadata.get("tag", [])
        known = before if isinstance(before, list) else [str(before)]
        new = fields["tag"]
        metadata["tag"] = list(dict.fromkeys([*known, *(new if isinstance(new, list) else [])]))
    row: dict[str, Any] = {"id": document.name, "title": document.title, "text": document.text}
    row.update(metadata)
    if document.rewrite:
        row["rewrite"] = document.rewrite
    if document.qa:
        row["qa"] = [{"question": q, "answer": a} for q, a in document.qa]
    row["augmented"] = [*map(entry_of, document.augmented), *entries]
    row["augmented_by"] = dict(made_by)
    return row


def key_of(document: Document, plan_fingerprint: str) -> str:
    """64 hex digits of a document and what is to be written about it."""
    facts = {**document.to_dict(), "source": "", "plan": plan_fingerprint}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class AugmentedFile:
    """The rows written so far, by document.

    Args:
        path: of the file; made with the first row.
        resume: keep what is in it; else it is emptied.

    Raises:
        Exists: if there is a file that ``adb augment`` did not write.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.keys: dict[str, str] = {}  # document -> key
        self._coverage: dict[str, Coverage] = {}
        self._rows = 0
        if not path.exists():
            return
        cut_torn_line(path)
        for row in read_lines(path):
            by = row.get("augmented_by")
            if not isinstance(by, dict) or not isinstance(row.get("id"), str) or "key" not in by:
                raise Exists(
                    f"{path} holds rows that 'adb augment' did not write",
                    hint="choose another name for --to",
                )
            if resume:
                self._note(row)
        if resume:
            self.finish()
        else:
            path.unlink()

    def coverage(self, name: str) -> Coverage:
        """What the row of a document holds."""
        return self._coverage[name]

    def add(self, row: Mapping[str, Any]) -> None:
        """Make a row durable; it replaces the document's earlier one when ``finish`` is called."""
        append_lines(self.path, [row])
        self._note(row)

    def finish(self) -> None:
        """Leave the last row of each document, in the order of their first ones."""
        if self._rows == len(self.keys):
            return
        last = {row["id"]: row for row in read_lines(self.path)}
        replace_lines(self.path, last.values())
        self._rows = len(last)

    def _note(self, row: Mapping[str, Any]) -> None:
        self._rows += 1
        self.keys[row["id"]] = row["augmented_by"]["key"]
        self._coverage[row["id"]] = coverage_of(row)


@dataclass
class Coverage:
    """How much was written about documents.

    Args:
        uncovered: facts without a pair to learn them from: document, start of the passage, text.
        skipped: what was left out on purpose, by reason.
        lacks: what failed.
    """

    passages: int = 0
    facts: int = 0
    pairs: int = 0
    held_out: int = 0
    rewrites: int = 0
    tagged: int = 0
    uncovered: list[tuple[str, int, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    lacks: list[Lack] = field(default_factory=list)

    def add(self, other: Coverage) -> None:
        """Count another document's too."""
        for name in ("passages", "facts", "pairs", "held_out", "rewrites", "tagged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.uncovered += other.uncovered
        self.skipped += other.skipped
        self.lacks += other.lacks


def coverage_of(row: Mapping[str, Any]) -> Coverage:
    """What a row that ``adb augment`` wrote holds."""
    by = row["augmented_by"]
    found = Coverage(tagged=int("tags" in by.get("write", ()) and "description" in row))
    for entry in row["augmented"]:
        facts = entry.get("facts", [])
        found.passages += 1
        found.rewrites += "rewrite" in entry
        found.facts += len(facts)
        found.pairs += len(entry.get("qa", [])) + sum(len(fact["qa"]) for fact in facts)
        found.held_out += sum(len(fact["held_out"]) for fact in facts)
        found.uncovered += [
            (row["id"], entry["start"], fact["text"]) for fact in facts if not fact["qa"]
        ]
    found.skipped.update(by.get("skipped", {}))
    found.lacks += [Lack(row["id"], *lack) for lack in by.get("lacks", [])]
    return found
