"""Documents from JSON Lines: one row at a time, in constant memory.

A row is a document, ``{"id", "title", "text"}`` with optional ``rewrite``, ``qa`` and ``augmented``
(what ``adb augment`` wrote: ``[{"start", "end", "theme", "rewrite", "qa", "facts"}]``), or a
question with passages, ``{"question", "passages": [{"id", "title", "text"}]}``: each passage is
one document, however many questions repeat it. Other fields become metadata. UTF-8 only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import IO, Any

from adapterdb.errors import Rejected
from adapterdb.ingest.files import check_name
from adapterdb.ingest.front_matter import MAX_INT, to_metadata
from adapterdb.ingest.rejection import Rejection, rejection
from adapterdb.records import Augmentation, Document, Fact

NOT_METADATA = frozenset(
    ["id", "title", "text", "rewrite", "qa", "passages", "augmented", "augmented_by"]
)


class RowReader:
    """Turns rows into documents, remembering which passages it has given out.

    Args:
        limit_bytes: of one document; a line may hold four times as much.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.line_bytes = 4 * limit_bytes + 2**16
        self.passages: dict[str, bytes] = {}  # id -> digest of the text

    def read(
        self, stream: IO[bytes], name: str, source: str, *, ids_required: bool = False
    ) -> Iterator[Document | Rejection]:
        """The documents of ``stream``; a bad line becomes a rejection and the rest go on.

        Args:
            stream: JSON Lines, read to its end and left open.
            name: a row without id is called ``name:line``.
            source: for `Document.source`, with the line number.
            ids_required: refuse rows without id, where line numbers mean nothing (stdin).
        """
        number = 0
        while line := stream.readline(self.line_bytes + 1):
            number += 1
            row_name = f"{name}:{number}"
            try:
                if len(line) > self.line_bytes:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(self.line_bytes)
                    raise Rejected(
                        f"the line is longer than {self.line_bytes} bytes", code="too_large"
                    )
                if not line.strip():
                    continue
                row = _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                if isinstance(row.get("id", 0), str):
                    row_name = row["id"] or row_name
                if ids_required and "id" not in row:
                    raise Rejected("a row on stdin needs an 'id'", code="bad_row")
                at = f"{source}:{number}"
                if "text" not in row and isinstance(row.get("passages"), list):
                    yield from self._passages(row, row_name, at)
                else:
                    yield document_of(row, row_name, at)
            except Rejected as error:
                message = f"{source} line {number}: {error.message}"
                yield rejection(row_name, Rejected(message, code=error.code))

    def _passages(self, row: dict[str, Any], name: str, source: str) -> Iterator[Document]:
        """The passages of a question row that were not given out before."""
        for i, passage in enumerate(row["passages"]):
            if not isinstance(passage, dict) or "id" not in passage:
                raise Rejected(f"passage {i} is not an object with an 'id'", code="bad_row")
            document = document_of(passage, name, source)
            digest = blake2b(document.text.encode("utf-8", "replace"), digest_size=16).digest()
            before = self.passages.get(document.name)
            if before == digest:
                continue
            if before is not None:
                raise Rejected(
                    f"passage id {document.name!r} came before with another text",
                    code="duplicate_id",
                )
            self.passages[document.name] = digest
            yield document


def _parse(line: bytes) -> dict[str, Any]:
    """The object in ``line``; strict where Python's json is lax."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(f"not UTF-8 at byte {error.start}", code="bad_encoding") from error
    try:
        row = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except RecursionError as error:
        raise Rejected("nested too deeply", code="bad_json") from error
    except ValueError as error:
        raise Rejected(f"not JSON: {error}", code="bad_json") from error
    if not isinstance(row, dict):
        raise Rejected(f"a JSON object is needed, not {type(row).__name__}", code="bad_json")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; Python's json would silently take the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice in one object")
    return found


def _constant(word: str) -> float:
    raise ValueError(f"{word} is not allowed")


def _int(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > MAX_INT:
        raise ValueError(f"the number {digits[:24]} does not fit in 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits[:24]} is too large")
    return value


def document_of(row: dict[str, Any], name: str, source: str) -> Document:
    """The document in ``row``, called by its id, or ``name`` where it has none."""
    given = row.get("id")
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise Rejected(f"'id' is {given!r:.80}; a string is needed", code="bad_row")
    return Document(
        name=check_name(str(given) if given is not None else name),
        text=_string(row, "text", required=True),
        title=_string(row, "title"),
        source=source,
        metadata=to_metadata({k: v for k, v in row.items() if k not in NOT_METADATA}),
        rewrite=_string(row, "rewrite"),
        qa=_pairs(row, "qa"),
        augmented=tuple(map(_augmentation, _objects(row, "augmented"))),
    )


def _augmentation(entry: dict[str, Any]) -> Augmentation:
    """What was written about a span; whether the text has it is ``check_document``'s to say."""
    start, end = entry.get("start"), entry.get("end")
    if type(start) is not int or type(end) is not int:
        raise Rejected(
            f"'start' and 'end' are {start!r:.40} and {end!r:.40}; integers are needed",
            code="bad_row",
        )
    return Augmentation(
        start,
        end,
        theme=_string(entry, "theme"),
        rewrite=_string(entry, "rewrite"),
        qa=_pairs(entry, "qa"),
        facts=tuple(map(_fact, _objects(entry, "facts"))),
    )


def _fact(entry: dict[str, Any]) -> Fact:
    roles = entry.get("roles") or []
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Rejected("'roles' is not a list of strings", code="bad_row")
    text, qa = _string(entry, "text", required=True), _pairs(entry, "qa")
    if roles and len(roles) != len(qa):
        raise Rejected(f"a fact has {len(roles)} roles for {len(qa)} pairs", code="bad_row")
    return Fact(text, qa, _pairs(entry, "held_out"), tuple(roles))


def _objects(row: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = row.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Rejected(f"'{field}' is not a list of objects", code="bad_row")
    return value


def _string(row: dict[str, Any], field: str, *, required: bool = False) -> str:
    value = row.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        found = f"is {type(value).__name__}" if field in row else "is missing"
        raise Rejected(f"'{field}' {found}; a string is needed", code="bad_row")
    return value


def _pairs(row: dict[str, Any], field: str) -> tuple[tuple[str, str], ...]:
    """Questions and answers out of ``[{"question", "answer"}]``."""
    return tuple(
        (_string(pair, "question", required=True), _string(pair, "answer", required=True))
        for pair in _objects(row, field)
    )
