"""Documents out of files, folders and JSON Lines.

Owns the formats and what a document must be; ``files.py`` opens, ``chunking.py`` cuts. A bad
document becomes a `Rejection` (codes: ``rejection.py``) and the rest go on; only misuse raises.

    .txt .text                 the text as it is
    .md .markdown              Markdown as it is, less the front matter, which becomes metadata
    .html .htm                 the visible text
    .pdf                       the text of the pages, blank lines between them; no OCR
    .jsonl .ndjson, also .gz   a document per row (``json_lines.py``)

Offsets of passages count in `Document.text`: for HTML, PDF and front matter that is the extracted
text, not the file. Text is strict UTF-8, or UTF-16 with a byte-order mark; newlines stay as they
are. A document from a file is named by its path below the folder given, in POSIX form; one from a
row by its id. The names seen are kept in memory, the texts are not.
"""

from __future__ import annotations

import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import IO, BinaryIO, NamedTuple, cast

from adapterdb.config import LimitConfig
from adapterdb.errors import InvalidInput, NotFound, Rejected
from adapterdb.ingest.files import (
    CorpusFile,
    check_name,
    find_files,
    named_file,
    open_regular,
    read_bytes,
    stamp,
)
from adapterdb.ingest.front_matter import is_metadata, split_front_matter, to_metadata
from adapterdb.ingest.html_text import html_text
from adapterdb.ingest.json_lines import RowReader
from adapterdb.ingest.pdf_text import pdf_text
from adapterdb.ingest.rejection import Rejection, printable, rejection
from adapterdb.records import Augmentation, Document, Metadata

__all__ = ["Rejection", "check_document", "read_documents"]

MAX_TITLE_CHARS = 300
GZIP_RATIO = 100
GZIP_FLOOR_BYTES = 16 * 2**20  # small files may be very repetitive
HEAD_BYTES = 8192  # what is looked at to tell text from other things

Source = str | PathLike[str]


def read_documents(
    sources: Source | Iterable[Source],
    *,
    glob: str | None = None,
    limits: LimitConfig | None = None,
    stdin: IO[bytes] | None = None,
) -> Iterator[Document | Rejection]:
    """The documents of files, folders (recursive, sorted, hidden files skipped) and stdin.

    Args:
        sources: paths; ``"-"`` is JSON Lines on standard input.
        glob: of the files in folders, only those whose relative name matches; ``*`` crosses ``/``.
        limits: sizes above which a document is rejected.
        stdin: what ``"-"`` reads, by default the process's own.

    Raises:
        NotFound: if a source does not exist.
        InvalidInput: if there is no source, or ``"-"`` comes twice.
    """
    paths = [sources] if isinstance(sources, str | PathLike) else list(sources)
    names = [fspath(path) for path in paths]
    if not names or names.count("-") > 1:
        raise InvalidInput("name at least one file or folder, and '-' at most once")
    for name in names:
        if "\0" in name or (name != "-" and not Path(name).exists()):
            raise NotFound(f"{printable(name)!r} does not exist", hint="check the path")
    return _read(names, glob, limits or LimitConfig(), stdin)


def read_all_documents(sources: Iterable[str | Path], limits: LimitConfig) -> Iterator[Document]:
    """``read_documents``, where one that can't be taken is an error.

    Raises:
        InvalidInput: with its name and the code of its rejection.
    """
    for item in read_documents(list(sources), limits=limits):
        if isinstance(item, Rejection):
            raise InvalidInput(f"{item.name}: {item.message}", code=item.code)
        yield item


def check_document(document: Document, limits: LimitConfig) -> Document:
    """``document`` as it may be stored: name in NFC, title on one line.

    Raises:
        Rejected: ``bad_name``, ``bad_metadata``, ``bad_row``, ``empty``, ``nul``,
            ``bad_encoding`` or ``too_large``.
    """
    if not any(c.isprintable() and not c.isspace() for c in document.text):
        raise Rejected("there is no visible character", code="empty")
    fields = [document.title, document.rewrite, *sum(document.qa, ())]
    for entry in document.augmented:
        fields += _augmented_texts(entry, len(document.text))
    for key, value in document.metadata.items():
        if not (isinstance(key, str) and is_metadata(value)):
            raise Rejected(
                f"the metadata field {str(key)[:80]!r} is {repr(value)[:80]}; allowed are strings,"
                " finite numbers, 64-bit integers, true, false and lists of strings",
                code="bad_metadata",
            )
        fields += [key, *(value if isinstance(value, list) else [str(value)])]
    for text in (document.text, *fields):
        _check_text(text, limits.document_bytes)
    title = " ".join(document.title.split())[:MAX_TITLE_CHARS].rstrip()
    return replace(document, name=check_name(document.name), title=title)


def _augmented_texts(entry: Augmentation, length: int) -> list[str]:
    """Every text that was written about a span of a document of ``length`` characters."""
    if not 0 <= entry.start < entry.end <= length:
        raise Rejected(
            f"'augmented' has a span {entry.start}-{entry.end}; the text has the characters"
            f" 0-{length}",
            code="bad_row",
        )
    texts = [entry.theme, entry.rewrite, *sum(entry.qa, ())]
    for fact in entry.facts:
        texts += [fact.text, *fact.roles, *sum((*fact.qa, *fact.held_out), ())]
    return texts


def _check_text(text: str, limit_bytes: int) -> None:
    if "\0" in text:
        raise Rejected(f"a NUL character at position {text.index(chr(0))}", code="nul")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise Rejected(
            f"half a surrogate pair at position {error.start}", code="bad_encoding"
        ) from error
    if size > limit_bytes:
        raise Rejected(f"{size} bytes of text; at most {limit_bytes} are allowed", code="too_large")


def _read(
    names: list[str], glob: str | None, limits: LimitConfig, stdin: IO[bytes] | None
) -> Iterator[Document | Rejection]:
    """Everything in the sources, checked, each name once."""
    rows = RowReader(limits.document_bytes)
    seen: dict[str, str] = {}  # folded name -> name
    for name in names:
        for item in _read_source(name, glob, limits, rows, stdin):
            if isinstance(item, Rejection):
                yield item
                continue
            try:
                document = check_document(item, limits)
                folded = document.name.casefold()
                if folded in seen:
                    raise Rejected(
                        f"{seen[folded]!r} was read before in this run", code="duplicate_id"
                    )
                seen[folded] = document.name
                yield document
            except Rejected as error:
                yield rejection(item.name, error)


def _read_source(
    name: str, glob: str | None, limits: LimitConfig, rows: RowReader, stdin: IO[bytes] | None
) -> Iterator[Document | Rejection]:
    if name == "-":
        yield from rows.read(stdin or sys.stdin.buffer, "stdin", "stdin", ids_required=True)
        return

    def wanted(relative: str) -> bool:
        return _suffix(relative) in SUFFIXES and (glob is None or fnmatchcase(relative, glob))

    path = Path(name)
    try:
        files = find_files(path, wanted) if path.is_dir() else iter([named_file(path)])
        for file in files:
            if isinstance(file, Rejection):
                yield file
            else:
                yield from _read_file(file, limits, rows)
    except OSError as error:  # the folder itself can't be listed
        yield rejection(name, Rejected(f"can't be read: {error.strerror}", code="unreadable"))


def _read_file(
    file: CorpusFile, limits: LimitConfig, rows: RowReader
) -> Iterator[Document | Rejection]:
    try:
        suffix = _suffix(file.name)
        if suffix in ROW_SUFFIXES:
            yield from _read_rows(file, rows, compressed=suffix.endswith(".gz"))
            return
        if suffix not in FORMATS:
            with open_regular(file):  # a FIFO or an unreadable file is called what it is
                pass
            raise Rejected(
                f"no reader for {suffix or 'a name without suffix'!r}; known are "
                + ", ".join(sorted(SUFFIXES)),
                code="unknown_type",
            )
        content = FORMATS[suffix](read_bytes(file, limits.document_bytes), limits)
        yield Document(
            name=check_name(file.name),
            text=content.text,
            title=content.title,
            source=printable(file.shown),
            metadata=dict(content.metadata),
        )
    except Rejected as error:
        yield rejection(file.name, error)


def _suffix(name: str) -> str:
    """The ending that decides the format: ``.md``, ``.jsonl.gz``."""
    path = Path(name.lower())
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


class Content(NamedTuple):
    """What a format gives of a file."""

    text: str
    title: str = ""
    metadata: Metadata = MappingProxyType({})


def _plain(data: bytes, limits: LimitConfig) -> Content:
    return Content(_decode(data))


def _markdown(data: bytes, limits: LimitConfig) -> Content:
    fields, text = split_front_matter(_decode(data))
    metadata = to_metadata({k: v for k, v in fields.items() if k != "title"})
    title = fields.get("title")
    heading = _HEADING.search(_FENCE.sub("", text))
    if heading is not None and title is None:
        title = (heading[1] or heading[2]).rstrip("# \t")
    title = "" if title is None else str(title)
    return Content(_without_title(text, title), title, metadata)


def _without_title(text: str, title: str) -> str:
    """The text without a first heading that says the title: every passage carries that anyway."""
    body = text.lstrip()
    first = _HEADING.match(body)
    if first is None or (first[1] or first[2]).rstrip("# \t") != title:
        return text
    return body[first.end() :].lstrip() or text


_FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S[^\r\n]*)|^(\S[^\r\n]*)\r?\n=+[ \t]*\r?$", re.MULTILINE)


def _html(data: bytes, limits: LimitConfig) -> Content:
    page = html_text(_decode(data))
    return Content(page.text, page.title)


def _pdf(data: bytes, limits: LimitConfig) -> Content:
    page = pdf_text(data, limits.document_bytes)
    return Content(page.text, page.title)


FORMATS: dict[str, Callable[[bytes, LimitConfig], Content]] = {
    ".txt": _plain,
    ".text": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
ROW_SUFFIXES = frozenset([".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"])
SUFFIXES = ROW_SUFFIXES | FORMATS.keys()


def _decode(data: bytes) -> str:
    """``data`` as text: UTF-16 if its byte-order mark says so, else UTF-8; nothing replaced."""
    encoding = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and not data.startswith(b"\xff\xfe\0\0"):
        encoding = "utf-16"
    elif _looks_binary(data[:HEAD_BYTES]):
        raise Rejected("the content is binary, not text", code="not_text")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data[:HEAD_BYTES] and encoding == "utf-8-sig":
            raise Rejected("the content is binary, not text", code="not_text") from error
        raise Rejected(
            f"not {encoding.removesuffix('-sig').upper()} at byte {error.start}",
            code="bad_encoding",
        ) from error


def _looks_binary(head: bytes) -> bool:
    """Whether over a tenth of ``head`` can't be UTF-8 or is control characters."""
    text = head.decode("utf-8", "replace")
    odd = text.count("\ufffd") + sum(c < " " and c not in "\t\n\r\f" for c in text)
    return odd * 10 > len(head)


def _read_rows(
    file: CorpusFile, rows: RowReader, *, compressed: bool
) -> Iterator[Document | Rejection]:
    """The documents of a JSON Lines file, which is never in memory as a whole."""
    with open_regular(file) as raw:
        before = stamp(raw)
        stream: BinaryIO = raw
        if compressed:
            limit = GZIP_RATIO * before.size_bytes + GZIP_FLOOR_BYTES
            bounded = cast(io.RawIOBase, _Bounded(gzip.GzipFile(fileobj=raw), limit))
            stream = cast(BinaryIO, io.BufferedReader(bounded, 2**16))
        try:
            head = cast(io.BufferedReader, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise Rejected("JSON Lines are UTF-8; this is UTF-16", code="bad_encoding")
            if _looks_binary(head) or b"\0" in head:
                raise Rejected("the content is binary, not JSON Lines", code="not_text")
            yield from rows.read(stream, file.name, printable(file.shown))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Rejected(f"the gzip data is damaged: {error}", code="unreadable") from error
        if stamp(raw) != before:
            raise Rejected("the file changed while it was read; read it again", code="unstable")


class _Bounded(io.RawIOBase):
    """Reads ``stream`` and refuses to give more than ``limit_bytes``."""

    def __init__(self, stream: gzip.GzipFile, limit_bytes: int) -> None:
        super().__init__()
        self.stream = stream
        self.left = limit_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.stream.read1(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise Rejected(f"unpacks to over {GZIP_RATIO} times its size", code="bomb")
        buffer[: len(data)] = data
        return len(data)
