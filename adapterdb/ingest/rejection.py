"""Why a document was not taken in: one stable word each.

bad_encoding   not strict UTF-8, or UTF-16 with a byte-order mark; nothing is ever replaced
bad_json       a JSONL line that is no JSON object, or holds NaN, huge numbers, deep nesting, a key
               twice
bad_metadata   a field that is no string, finite number, 64-bit integer, bool or list of strings
bad_name       not UTF-8, a control character, empty, or over 1024 bytes
bad_row        a JSONL object without text, or with a field of the wrong kind
bomb           a compressed file or a PDF that grows beyond all proportion
broken_pdf     a PDF that can't be parsed, or takes too long
duplicate_id   the same name twice in one run, also when only case or Unicode form differ
empty          no visible character
encrypted_pdf  a PDF that wants a password
needs_extra    the format needs an optional package
not_regular    a FIFO, socket or device
not_text       binary content under the suffix of a text format
nul            a NUL character, which PostgreSQL can't store
outside_root   a symbolic link that leaves the folder it was found in
too_large      over ``limits.document_bytes``; files are measured before they are read
unknown_type   a file named explicitly whose suffix no reader knows
unreadable     the file system, or the decompressor, refuses
unstable       the file changed while it was read, twice
"""

from __future__ import annotations

from dataclasses import dataclass

from adapterdb.errors import Rejected
from adapterdb.records import Record


@dataclass(frozen=True)
class Rejection(Record):
    """One document, file or row that was not taken in.

    Args:
        name: of the document, or of the file or row it would have come from; safe to print.
        code: one of the words in the module's table.
        message: what was wrong, for people.
    """

    name: str
    code: str
    message: str


def rejection(name: str, error: Rejected) -> Rejection:
    """``error`` as the record that stands in for the document ``name``."""
    return Rejection(printable(name), error.code, error.message)


def printable(name: str) -> str:
    """``name`` with control characters and undecodable bytes written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
