"""Documents from strangers: contents, names and places made to break a reader (D1-D12).

``CONTENTS`` are files, by name, with what may become of them; ``PLACES`` are functions that build a
folder of links, pipes, odd names and the like. ``read`` means that a document comes out.
"""

# ruff: noqa: E501 - tables of cases are easier to read in long lines

from __future__ import annotations

import gzip
import io
import json
import os
import random
import socket
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

CANARY = "canary-7f3a-outside-the-corpus"
MB = 2**20


def pdf(content: bytes, *, extra: bytes = b"", filters: bytes = b"", pages: bytes = b"") -> bytes:
    """A PDF of one page whose content stream is ``content``."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R %s >>" % extra,
        pages or b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), filters, content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + end


SHOWS = b"BT /F1 12 Tf 72 720 Td (A page.) Tj ET"
FLATE = b"/Filter /FlateDecode"


def _zip(size: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(size))
    return out.getvalue()


def _row(**fields: object) -> bytes:
    return json.dumps({"id": "d", "text": "words of it", **fields}).encode() + b"\n"


def _front(block: str) -> bytes:
    return f"---\n{block}\n---\nbody of it\n".encode()


def _yaml_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines)


Content = bytes | Callable[[], bytes]
# name -> (suffix, bytes, what may come of it)
CONTENTS: dict[str, tuple[str, Content, str]] = {
    "elf": (".txt", b"\x7fELF\x02\x01\x01" + bytes(500), "not_text"),
    "png": (".txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, "not_text"),
    "zip as text": (".txt", _zip(10_000), "not_text"),
    "nul": (".txt", b"text with a \0 in it, and more after", "nul"),
    "nul far": (".txt", b"word " * 4000 + b"\0", "nul"),
    "latin-1": (
        ".txt",
        ("d\u00e9j\u00e0 vu, " + "and more words " * 3).encode("latin-1"),
        "bad_encoding",
    ),
    "utf-8 cut": (".txt", "good text to the en\u00e9".encode()[:-1], "bad_encoding"),
    "overlong": (".txt", b"slash as \xc0\xaf in two bytes here", "bad_encoding"),
    "surrogate": (".txt", b"half a pair \xed\xa0\x80 in UTF-8, some text", "bad_encoding"),
    "utf-16-le": (".txt", "\u00e9 and \u6f22".encode("utf-16"), "read"),
    "utf-16-be": (".txt", b"\xfe\xff" + "\u00e9 and \u6f22".encode("utf-16-be"), "read"),
    "utf-16 odd": (".txt", b"\xff\xfea", "bad_encoding"),
    "utf-16 half pair": (".txt", b"\xff\xfea\x00\x00\xd8b\x00", "bad_encoding"),
    "utf-32": (".txt", "wide text".encode("utf-32"), "not_text"),
    "mixed line ends": (
        ".txt",
        b"one\r\ntwo\rthree\nfour\x0bfive\xc2\x85six\xe2\x80\xa8seven",
        "read",
    ),
    "control characters": (".txt", b"bell \x07 escape \x1b[31m red, then words " * 3, "read"),
    "bidi": (".txt", "left \u202eright\u202c and \u2066isolate\u2069".encode(), "read"),
    "combining": (".txt", ("a" + "\u0301" * 20_000).encode(), "read"),
    "empty": (".txt", b"", "empty"),
    "only a mark": (".txt", b"\xef\xbb\xbf", "empty"),
    "white space": (".txt", b" \t\r\n" * 1000 + "\u200b\u00a0".encode(), "empty"),
    "one character": (".txt", b"x", "read"),
    "no words": (".txt", b"... --- ... !!! ???", "read"),
    "one line of 100 MB": (".txt", lambda: b"x" * (100 * MB), "too_large"),
    "one line of 10 MB": (".txt", lambda: b"ab " * (3 * MB), "read"),
    "one word of 2 MB": (".txt", lambda: b"x" * (2 * MB), "read"),
    "newlines": (".txt", lambda: b"a" + b"\n" * (4 * MB), "read"),
    "entity too long": (".html", b"<p>a &#" + b"9" * 5000 + b"; b</p>", "read"),
    "entities": (".html", lambda: b"&lt" * MB, "read"),
    "entities unknown": (
        ".html",
        lambda: b"&" + b"&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 100_000,
        "read",
    ),
    "doctype entities": (
        ".html",
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><p>&b; text</p>",
        "read",
    ),
    "html nesting": (".html", lambda: b"<div>" * 500_000 + b"deep" + b"</div>" * 500_000, "read"),
    "html hidden nesting": (
        ".html",
        lambda: b"<p>x" + b"<nav><svg>" * 200_000 + b"</svg>" * 9,
        "read",
    ),
    "html open tags": (".html", lambda: b"x" + b"<a " * 500_000, "read"),
    "html open quotes": (".html", lambda: b"x" + b"<a b='" * 200_000 + b'<c d="' * 99, "read"),
    "html scripts": (".html", lambda: b"x" + b"<script>" * 300_000 + b"</script" * 99, "read"),
    "html comments": (".html", lambda: b"x<!--" + b"--!><!" * 500_000, "read"),
    "html xxe": (
        ".html",
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><p>&f; a <img src="file:///x"></p>',
        "read",
    ),
    "yaml bomb": (".md", lambda: _front(_yaml_bomb()), "read"),
    "yaml recursion": (".md", _front("a: &a [*a]\ntags: &t [*t]"), "read"),
    "yaml python": (".md", _front("a: !!python/object/apply:os.system ['touch canary']"), "read"),
    "yaml bool tag": (".md", _front("a: !!bool maybe"), "read"),
    "yaml int tag": (".md", _front("a: !!int ''"), "read"),
    "yaml timestamp tag": (".md", _front("a: !!timestamp soon"), "read"),
    "yaml foreign digits": (".md", _front("date: 2\u066424-05-01"), "read"),
    "yaml infinity": (".md", _front(f"x: {'9' * 400}.0"), "read"),
    "yaml nesting": (".md", _front("a: " + "[" * 8000), "read"),
    "yaml braces": (".md", _front("a: " + "{a: " * 2000), "read"),
    "yaml keys": (".md", _front("? [a]\n: b\n? {c: d}\n: e"), "read"),
    "front matter endless": (".md", lambda: b"---\n" + b"a: b\n" * 200_000, "read"),
    "headings": (".md", lambda: b"x\n" + b"```\n" * 300_001 + b"# a", "read"),
    "heading of hashes": (".md", lambda: b"x\n# a " + b"#\t" * 500_000 + b"x", "read"),
    "json nan": (".jsonl", b'{"id": "a", "text": "t", "x": NaN}\n' + _row(), "bad_json read"),
    "json twice": (".jsonl", b'{"id": "a", "text": "t", "text": "u"}\n', "bad_json"),
    "json depth": (".jsonl", b'{"x":' + b"[" * 100_000 + b"\n" + _row(), "bad_json read"),
    "json closed depth": (
        ".jsonl",
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n" + _row(),
        "bad_json read",
    ),
    "json digits": (".jsonl", b'{"text": "t", "x": ' + b"9" * 5000 + b"}\n", "bad_json"),
    "json minus": (".jsonl", b'{"text": "t", "x": -' + b"9" * 19 + b"}\n", "bad_json"),
    "json exponent": (".jsonl", b'{"text": "t", "x": 1e400}\n', "bad_json"),
    "json surrogate": (".jsonl", b'{"text": "t\\ud800"}\n', "bad_encoding"),
    "json surrogate key": (".jsonl", b'{"text": "t", "\\udfff": "x"}\n', "bad_encoding"),
    "json nul": (".jsonl", b'{"text": "t\\u0000"}\n', "nul"),
    "json line of 60 MB": (
        ".jsonl",
        lambda: b'{"text": "' + b"x" * (60 * MB) + b'"}\n' + _row(),
        "too_large read",
    ),
    "json of lists": (
        ".jsonl",
        lambda: b'{"text": "t", "x": [' + b"[]," * (3 * MB) + b"[]]}\n",
        "read",
    ),
    "json no lines": (".jsonl", lambda: b"x" * (45 * MB), "too_large"),
    "json blank lines": (".jsonl", lambda: b"\n" * MB + _row(), "read"),
    "json many bad rows": (".jsonl", lambda: b"[]\n" * 20_000, "bad_json"),
    "json ids": (".jsonl", _row(id="../../etc/passwd") + _row(id="$(reboot)'; --"), "read"),
    "json id escape": (".jsonl", _row(id="\x1b[2J\x07"), "bad_name"),
    "json many tags": (".jsonl", lambda: _row(tags=["a", "b"] * 200_000), "read"),
    "gzip bomb": (".jsonl.gz", lambda: gzip.compress(b" " * (200 * MB) + b"\n"), "bomb too_large"),
    "gzip of lines": (".jsonl.gz", lambda: gzip.compress((b" " * MB + b"\n") * 200), "bomb"),
    "gzip in gzip": (".jsonl.gz", gzip.compress(gzip.compress(_row())), "not_text"),
    "gzip cut": (".jsonl.gz", gzip.compress(_row())[:-9], "unreadable read"),
    "gzip flipped": (".jsonl.gz", gzip.compress(_row())[:-8] + b"\0" * 8, "unreadable read"),
    "zip as gzip": (".jsonl.gz", _zip(100), "unreadable"),
    "pdf": (".pdf", pdf(SHOWS), "read"),
    "pdf without end": (".pdf", pdf(SHOWS)[:300], "broken_pdf"),
    "pdf bomb": (".pdf", lambda: pdf(zlib.compress(bytes(300 * MB), 9), filters=FLATE), "bomb"),
    "pdf double bomb": (
        ".pdf",
        lambda: pdf(
            zlib.compress(zlib.compress(b" " * (400 * MB), 9), 9),
            filters=b"/Filter [/FlateDecode /FlateDecode]",
        ),
        "bomb",
    ),
    "pdf page loop": (
        ".pdf",
        pdf(SHOWS, pages=b"<< /Type /Pages /Kids [2 0 R 2 0 R 3 0 R] /Count 3 >>"),
        "read broken_pdf",
    ),
    "pdf count": (
        ".pdf",
        pdf(SHOWS, pages=b"<< /Type /Pages /Kids [3 0 R] /Count 2000000000 >>"),
        "read broken_pdf",
    ),
    "pdf javascript": (
        ".pdf",
        pdf(SHOWS, extra=b"/OpenAction << /S /JavaScript /JS (app.launchURL('http://x')) >>"),
        "read",
    ),
    "pdf operators": (
        ".pdf",
        lambda: pdf(b"BT /F1 9 Tf " + b"(a) Tj " * 300_000),
        "read broken_pdf",
    ),
    "pdf brackets": (".pdf", lambda: pdf(b"BT " + b"[" * 200_000), "empty broken_pdf bomb"),
    "pdf of nothing": (".pdf", b"%PDF-1.7\n", "broken_pdf"),
    "png as pdf": (".pdf", b"\x89PNG\r\n" + bytes(900), "broken_pdf"),
    "zip as docx": (".docx", _zip(100), "passed"),
}


def make_content(name: str, folder: Path) -> Path:
    """Write the file ``name`` of ``CONTENTS`` into ``folder``."""
    suffix, content, _ = CONTENTS[name]
    path = folder / f"case{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content())
    return path


def _named(folder: Path, *names: bytes) -> None:
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"text of " + b"it")


def link_out(folder: Path) -> None:
    (folder / "a.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "b.txt").symlink_to("../outside.txt")
    (folder / "c").symlink_to("..")


def link_chain_out(folder: Path) -> None:
    (folder / "a.txt").symlink_to("b.txt")
    (folder / "b.txt").symlink_to("d/c.txt")
    (folder / "d").symlink_to("..")
    (folder.parent / "c.txt").write_text(CANARY)


def link_to_proc(folder: Path) -> None:
    (folder / "a.txt").symlink_to("/proc/self/environ")
    (folder / "b.txt").symlink_to("/proc/self/fd/0")
    (folder / "c.txt").symlink_to("/dev/zero")


def link_loops(folder: Path) -> None:
    (folder / "a.txt").symlink_to("b.txt")
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "self").symlink_to(".")
    (folder / "own.txt").symlink_to("own.txt")


def links_inside(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "b.txt").symlink_to("a.txt")
    os.link(folder / "a.txt", folder / "hard.txt")


def fifo(folder: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.jsonl.gz", "d.pdf"):
        os.mkfifo(folder / name)


def local_socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("a.txt")
    os.chdir(here)


def folder_as_file(folder: Path) -> None:
    (folder / "a.txt").mkdir()
    (folder / "a.txt/b.txt").write_text("text")


def sparse_terabyte(folder: Path) -> None:
    for name in ("a.txt", "b.pdf"):
        with (folder / name).open("wb") as file:
            file.truncate(2**40)


def sparse_rows(folder: Path) -> None:
    with (folder / "a.jsonl").open("wb") as file:
        file.write(b"{}\n")
        file.truncate(2**33)


def names_odd(folder: Path) -> None:
    _named(folder, b"a'b.txt", b'a"b.txt', b"50%.txt", b"-rf.txt", b"a b.txt", b"$(x);.txt")
    _named(folder, b"CON.txt", b"NUL.txt", b"..a.txt", b"a\\b.txt", b"~.txt", b"*.txt", b"?.txt")


def names_bad(folder: Path) -> None:
    _named(folder, b"a\nb.txt", b"\x1b[31m.txt", b"caf\xe9.txt", b"\x7f.txt", b"\xed\xa0\x80.txt")


def names_long(folder: Path) -> None:
    _named(folder, b"n" * 251 + b".txt")
    deep = folder / ("d" * 200) / ("e" * 200) / ("f" * 200) / ("g" * 200) / ("h" * 240)
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("text")


def names_alike(folder: Path) -> None:
    for name in ("caf\u00e9.txt", unicodedata.normalize("NFD", "caf\u00e9.txt"), "CAF\u00c9.txt"):
        (folder / name).write_text("text")


def names_bidi(folder: Path) -> None:
    (folder / "a\u202etxt.exe.txt").write_text("text")
    (folder / "\u200b.txt").write_text("text")


def deep_tree(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(3000):  # deeper than a path may be long
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("a.txt", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def many_files(folder: Path) -> None:
    for i in range(3000):
        (folder / f"{i}.txt").write_text(f"text {i}")


def forbidden(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "a.txt").chmod(0)
    (folder / "b").mkdir(mode=0)


# what builds the folder -> what may come of it
PLACES: dict[Callable[[Path], None], str] = {
    link_out: "outside_root",
    link_chain_out: "outside_root",
    link_to_proc: "outside_root unreadable",
    link_loops: "unreadable",
    links_inside: "read",
    fifo: "not_regular",
    local_socket: "not_regular",
    folder_as_file: "read",
    sparse_terabyte: "too_large",
    sparse_rows: "bad_row too_large not_text",
    names_odd: "read",
    names_bad: "bad_name",
    names_long: "read bad_name",
    names_alike: "read duplicate_id",
    names_bidi: "read",
    deep_tree: "bad_name unreadable",
    many_files: "read",
    forbidden: "read unreadable",
}

SUFFIXES = (".txt", ".md", ".html", ".jsonl", ".jsonl.gz", ".pdf")
WORDS = (
    b"<p>", b"</", b"<!--", b"&#", b"---\n", b"tags: [", b'{"text": "', b'"id": ', b"\\ud8", b"{", b"[",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08", b"%PDF-1.4\n", b"obj", b"stream", b"text ", b"\n", b"\r",
)  # fmt: skip


def random_content(random_source: random.Random) -> tuple[str, bytes]:
    """A suffix, and bytes that are noise, or pieces of formats put together wrongly."""
    suffix = random_source.choice(SUFFIXES)
    length = random_source.choice((0, 1, 7, 100, 1000, 9000))
    kind = random_source.randrange(4)
    if kind == 0:
        data = random_source.randbytes(length)
    elif kind == 1:
        data = b"".join(random_source.choices(WORDS, k=length // 4))
    elif kind == 2:
        points = (random_source.randrange(1, 0xD800) for _ in range(length))
        data = "".join(map(chr, points)).encode()
    else:
        data = bytearray(random_source.choice([pdf(SHOWS), _row() * 5, _front("a: b")]))
        for _ in range(random_source.randrange(1, 9)):
            data[random_source.randrange(len(data))] = random_source.randrange(256)
    if suffix.endswith(".gz") and random_source.random() < 0.7:
        data = gzip.compress(bytes(data))
    if suffix == ".pdf" and random_source.random() < 0.5:
        data = struct.pack("<I", len(data)) + bytes(data)
    return suffix, bytes(data)
