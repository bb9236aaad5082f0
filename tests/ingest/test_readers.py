"""Readers: every format, every code, and input from strangers."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdb.config import LimitConfig
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.ingest import files
from adapterdb.ingest.front_matter import split_front_matter
from adapterdb.ingest.html_text import html_text
from adapterdb.ingest.readers import Rejection, read_documents
from adapterdb.records import Document


def documents(*sources: Path | str, **options: object) -> dict[str, Document]:
    """The documents of ``sources`` by name; nothing may be rejected."""
    items = list(read_documents(sources, **options))  # type: ignore[arg-type]
    assert not [item for item in items if isinstance(item, Rejection)]
    return {item.name: item for item in items if isinstance(item, Document)}


def codes(*sources: Path | str, **options: object) -> dict[str, str]:
    """The codes of what is rejected, by name."""
    items = read_documents(sources, **options)  # type: ignore[arg-type]
    return {item.name: item.code for item in items if isinstance(item, Rejection)}


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def pdf(text: str) -> bytes:
    """The bytes of a one-page PDF that shows ``text``."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Title (A small PDF) >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size 7 /Root 1 0 R /Info 6 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 7\n0000000000 65535 f \n" + table + trailer


def test_folder_is_read_in_order_without_hidden_and_unknown_files(tmp_path: Path) -> None:
    """A folder gives its known files, sorted, by relative POSIX name; others are passed over."""
    for name in ("b.txt", "a/z.md", "a/c.text", "a.txt", ".hidden.txt", ".git/x.txt", "x.bin"):
        write(tmp_path / name, f"text of {name}")
    found = documents(tmp_path)
    assert list(found) == ["a/c.text", "a/z.md", "a.txt", "b.txt"]
    assert found["a/z.md"].text == "text of a/z.md"
    assert found["a/z.md"].source == str(tmp_path / "a/z.md")


def test_glob_chooses_among_the_files_of_a_folder(tmp_path: Path) -> None:
    """Only names that match are read; a star crosses folders."""
    for name in ("a.txt", "b.md", "deep/er/c.md"):
        write(tmp_path / name, "text")
    assert list(documents(tmp_path, glob="*.md")) == ["b.md", "deep/er/c.md"]


def test_file_given_is_named_by_its_file_name(tmp_path: Path) -> None:
    """A file named explicitly loses its folder, and may be a link to anywhere."""
    target = write(tmp_path / "far/target.txt", "text")
    (tmp_path / "link.txt").symlink_to(target)
    assert list(documents(target, tmp_path / "link.txt")) == ["target.txt", "link.txt"]
    assert list(documents(str(target))) == ["target.txt"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain\r\nlines\n", "plain\r\nlines\n"),
        (b"\xef\xbb\xbfmark", "mark"),
        ("é漢".encode("utf-16"), "é漢"),
        (b"\xfe\xff" + "é漢".encode("utf-16-be"), "é漢"),
    ],
    ids=["newlines", "utf-8-bom", "utf-16-le", "utf-16-be"],
)
def test_text_is_decoded_by_the_declared_rule(
    tmp_path: Path, content: bytes | str, text: str
) -> None:
    """UTF-8, or UTF-16 with a mark, comes through to the character, newlines included."""
    assert documents(write(tmp_path / "a.txt", content))["a.txt"].text == text


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (" \n\t\u200b", "empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "not_text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "not_text"),
        ("caf\u00e9 au lait, s'il vous pla\u00eet".encode("latin-1"), "bad_encoding"),
        (b"text \xed\xa0\x80 with a surrogate, and more of it", "bad_encoding"),
        (b"\xff\xfea", "bad_encoding"),
        ("some longer text with one \0 inside", "nul"),
        ("x" * 2001, "too_large"),
    ],
)
def test_bad_text_is_rejected_by_code(tmp_path: Path, content: bytes | str, code: str) -> None:
    """Each kind of content that is no usable text has its own word, and stops nothing."""
    write(tmp_path / "bad.txt", content)
    write(tmp_path / "good.txt", "good")
    items = list(read_documents(tmp_path, limits=LimitConfig(document_bytes=2000)))
    bad, good = items
    assert isinstance(bad, Rejection)
    assert (bad.name, bad.code) == ("bad.txt", code)
    assert isinstance(good, Document)


def test_markdown_gives_title_metadata_and_body(tmp_path: Path) -> None:
    """Front matter becomes title and metadata; the text starts after it, offsets with it."""
    page = (
        "---\ntitle: The Weir\ndate: 2024-05-01\nlang: no\ntime: 12:30\ncount: 3\nratio: 0.5\n"
        "draft: false\ntags: [water, 'old mill']\nnested: {a: 1}\nnames: [a, b]\n---\n"
        "# Other\nBody.\n"
    )
    document = documents(write(tmp_path / "a.md", page))["a.md"]
    assert (document.title, document.text) == ("The Weir", "# Other\nBody.\n")
    assert document.metadata == {
        "date": "2024-05-01",
        "lang": "no",
        "time": "12:30",
        "count": 3,
        "ratio": 0.5,
        "draft": False,
        "tag": ["water", "old mill"],
        "names": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("intro\n\n## Deep *one* ##\ntext", "Deep *one*"),
        ("```\n# comment\n```\n# Real\n", "Real"),
        ("no heading", ""),
        ("---\nnot a mapping\n---\ntext", ""),
        ("---\na: [unclosed\n---\n# T\n", "T"),
        ("---\n" + "[" * 10000 + "\n---\n# T\n", "T"),
        ("---\nwhen: 2024-13-45\n---\n# T\n", "T"),
    ],
)
def test_markdown_without_front_matter_is_titled_by_its_first_heading(
    tmp_path: Path, page: str, title: str
) -> None:
    """The first heading outside code is the title; a block that is no YAML mapping stays text."""
    document = documents(write(tmp_path / "a.md", page))["a.md"]
    assert (document.title, document.text) == (title, page)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("Over\n====\ntext", "text"),
        ("\n# Over #\n\ntext\n# Over\n", "text\n# Over\n"),
        ("---\ntitle: Over\n---\n# Over\n\ntext", "text"),
        ("---\ntitle: Other\n---\n# Over\n\ntext", "# Over\n\ntext"),
        ("# Over\n", "# Over\n"),
    ],
)
def test_first_heading_that_is_the_title_is_not_said_twice(
    tmp_path: Path, page: str, text: str
) -> None:
    """A leading heading equal to the title is left out, unless it is all there is."""
    assert documents(write(tmp_path / "a.md", page))["a.md"].text == text


def test_empty_front_matter_and_windows_newlines() -> None:
    """A block ends at its closing line, whatever the newline, and may be last in the file."""
    assert split_front_matter("---\r\na: x\r\n---\r\nbody") == ({"a": "x"}, "body")
    assert split_front_matter("---\na: x\n---") == ({"a": "x"}, "")


def test_html_gives_visible_text_and_title(tmp_path: Path) -> None:
    """Tags, scripts, styles, navigation and comments go; blocks become lines; entities are read."""
    page = """<!DOCTYPE html><html><head><title>A &amp; B</title><style>p {x: "<b>"}</style></head>
    <body><nav><a href="/">Home</a></nav><!-- <p>no</p> --><h1>Head</h1><p>One <b>two</b>
    three&nbsp;&lt;4&gt;<br>line</p><script>if (a < b) { "</p>" }</script>
    <pre>  x
    y</pre><ul><li>i</li><li title="a > b">j</li></ul></body></html>"""
    document = documents(write(tmp_path / "a.html", page))["a.html"]
    assert document.title == "A & B"
    assert document.text == "Head\n\nOne two three\xa0<4>\nline\n\n  x\n    y\n\ni\n\nj"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    ["<", "<a ", "<!--", "</", "<a b='", "<!", "<script>", "<svg>", '<a ">" ', "<pre></svg>"],
)
def test_broken_html_takes_linear_time(unit: str) -> None:
    """Half a megabyte of broken tags is read in seconds."""
    start = time.monotonic()
    html_text(unit * (500_000 // len(unit)))
    assert time.monotonic() - start < 5


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("<>/!-'\"ab =pre&;\n"), max_size=80))
def test_any_html_is_read(page: str) -> None:
    """No string makes the scanner fail."""
    assert isinstance(html_text(page).text, str)


def test_pdf_gives_text_and_title(tmp_path: Path) -> None:
    """The text of the page and the title of the file are read."""
    pytest.importorskip("pypdf")
    document = documents(write(tmp_path / "a.pdf", pdf("The weir was built in 1402.")))["a.pdf"]
    assert (document.text, document.title) == ("The weir was built in 1402.", "A small PDF")


def test_bad_pdf_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken, locked, empty and unreadable-for-want-of-pypdf each have their word."""
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    blank = io.BytesIO()
    writer.write(blank)
    writer.encrypt("secret", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    write(tmp_path / "blank.pdf", blank.getvalue())
    write(tmp_path / "broken.pdf", b"%PDF-1.4\nnothing")
    write(tmp_path / "locked.pdf", locked.getvalue())
    expected = {"blank.pdf": "empty", "broken.pdf": "broken_pdf", "locked.pdf": "encrypted_pdf"}
    assert codes(tmp_path) == expected
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (missing,) = read_documents(tmp_path / "blank.pdf")
    assert isinstance(missing, Rejection)
    assert missing.code == "needs_extra"
    assert "pip install 'adapterdb[pdf]'" in missing.message


def test_rows_become_documents(tmp_path: Path) -> None:
    """A row gives text, title, metadata, rewrite and qa; without id it is named by its line."""
    full = {
        "id": "d1",
        "title": "T",
        "text": "body\r\n",
        "order": 3,
        "tags": "a, b",
        "none": None,
        "deep": {"x": 1},
        "rewrite": "other words",
        "qa": [{"question": "q", "answer": "a"}],
    }
    found = documents(
        write(tmp_path / "a.jsonl", rows(full, {"text": "two"}, {"id": 7, "text": "x"}))
    )
    assert list(found) == ["d1", "a.jsonl:2", "7"]
    assert found["d1"] == Document(
        name="d1",
        text="body\r\n",
        title="T",
        source=f"{tmp_path / 'a.jsonl'}:1",
        metadata={"order": 3, "tag": ["a", "b"]},
        rewrite="other words",
        qa=(("q", "a"),),
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "bad_json"),
        ('{"text": "t", "x": NaN}', "bad_json"),
        ('{"text": "t", "x": -Infinity}', "bad_json"),
        ('{"text": "t", "x": 1e999}', "bad_json"),
        ('{"text": "t", "x": ' + "9" * 5000 + "}", "bad_json"),
        ('{"text": "t", "x": 9223372036854775808}', "bad_json"),
        ('{"text": "t", "x": ' + "[" * 50_000 + "]" * 50_000 + "}", "bad_json"),
        ('["text"]', "bad_json"),
        ("{}", "bad_row"),
        ('{"text": 3}', "bad_row"),
        ('{"text": "t", "title": []}', "bad_row"),
        ('{"text": "t", "id": [1]}', "bad_row"),
        ('{"text": "t", "qa": [["q", "a"]]}', "bad_row"),
        ('{"passages": [{"text": "t"}]}', "bad_row"),
        ('{"text": "t\\u0000"}', "nul"),
        ('{"text": "t", "x": "\\u0000"}', "nul"),
        ('{"text": "t\\ud800"}', "bad_encoding"),
        ('{"text": "t\udce9"}', "bad_encoding"),
        ('{"text": " "}', "empty"),
        ('{"text": "t", "id": ""}', "bad_name"),
        ('{"text": "t", "id": "a\\nb"}', "bad_name"),
        ('{"text": "t", "id": "\\ud800"}', "bad_name"),
        ('{"text": "t", "id": "' + "n" * 1025 + '"}', "bad_name"),
        ('{"text": "' + "t" * 200_001 + '"}', "too_large"),
        ('{"text": "' + "t" * 2_000_000 + '"}', "too_large"),
    ],
)
def test_bad_rows_are_rejected_by_code(tmp_path: Path, line: str, code: str) -> None:
    """A bad line is named with its number, and the lines around it are read."""
    good = [json.dumps({"id": name, "text": "fine"}) for name in ("first", "last")]
    content = f"{good[0]}\n{line}\n{good[1]}\n".encode("utf-8", "surrogateescape")
    path = write(tmp_path / "a.jsonl", content)
    first, bad, last = read_documents(path, limits=LimitConfig(document_bytes=200_000))
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(bad, Rejection)
    assert bad.code == code
    if code in ("bad_json", "bad_row"):
        assert "line 2" in bad.message
    json.dumps(bad.to_dict()).encode()


def test_rows_that_are_no_json_lines_are_rejected_once(tmp_path: Path) -> None:
    """A binary or UTF-16 file under .jsonl is one rejection, not one per line."""
    write(tmp_path / "a.jsonl", bytes(range(256)) * 50)
    write(tmp_path / "b.jsonl", "{}\n".encode("utf-16"))
    assert codes(tmp_path) == {"a.jsonl": "not_text", "b.jsonl": "bad_encoding"}


def test_question_rows_give_each_passage_once(tmp_path: Path) -> None:
    """Passages shared by questions, over rows and files, are one document; other texts collide."""

    def question(n: int, *passages: dict[str, str]) -> dict[str, object]:
        return {"id": f"q{n}", "question": "?", "answers": ["a"], "passages": list(passages)}

    p1 = {"id": "p1", "title": "One", "text": "first"}
    p2 = {"id": "p2", "title": "Two", "text": "second"}
    write(tmp_path / "a.jsonl", rows(question(1, p1), question(2, p1, p2), question(3)))
    write(tmp_path / "b.jsonl", rows(question(4, p2)))
    found = documents(tmp_path)
    assert [(d.name, d.title, d.text) for d in found.values()] == [
        ("p1", "One", "first"),
        ("p2", "Two", "second"),
    ]
    write(tmp_path / "c.jsonl", rows(question(5, p1 | {"text": "changed"})))
    assert list(codes(tmp_path).values()) == ["duplicate_id"]


def test_compressed_rows_are_read_and_bounded(tmp_path: Path) -> None:
    """.jsonl.gz reads like .jsonl; damage and bombs are rejected after what could be read."""
    row = rows({"id": "d", "text": "body"}).encode()
    assert list(documents(write(tmp_path / "a.jsonl.gz", gzip.compress(row)))) == ["d"]
    many = rows(*({"id": f"{i}", "text": f"body {i * 7919}"} for i in range(3000))).encode()
    cut = write(tmp_path / "cut.jsonl.gz", gzip.compress(many)[:-2000])
    items = list(read_documents(cut))
    assert len(items) > 100
    assert [i.code for i in items if isinstance(i, Rejection)] == ["unreadable"]
    bomb = write(tmp_path / "bomb.jsonl.gz", gzip.compress(row + (b" " * 2**20 + b"\n") * 40))
    assert codes(bomb) == {"bomb.jsonl.gz": "bomb"}
    assert codes(write(tmp_path / "no.jsonl.gz", b"not gzip")) == {"no.jsonl.gz": "unreadable"}


def test_stdin_is_json_lines_with_ids() -> None:
    """A dash reads rows from standard input; a row without id would have no lasting name."""
    stdin = io.BytesIO(rows({"id": "d", "text": "body"}, {"text": "nameless"}).encode())
    document, refused = read_documents("-", stdin=stdin)
    assert isinstance(document, Document)
    assert (document.name, document.source) == ("d", "stdin:1")
    assert isinstance(refused, Rejection)
    assert refused.code == "bad_row"


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    """A link that leaves the corpus is rejected; one inside is read; loops end."""
    secret = write(tmp_path / "secret.txt", "canary")
    corpus = tmp_path / "corpus"
    write(corpus / "in.txt", "text")
    (corpus / "loop").symlink_to(corpus)
    (corpus / "alias.txt").symlink_to("in.txt")
    (corpus / "file.txt").symlink_to(secret)
    (corpus / "folder").symlink_to(tmp_path)
    (corpus / "dead.txt").symlink_to("nowhere.txt")
    items = list(read_documents(corpus))
    assert [i.name for i in items if isinstance(i, Document)] == ["alias.txt", "in.txt"]
    assert {i.name: i.code for i in items if isinstance(i, Rejection)} == {
        "file.txt": "outside_root",
        "folder": "outside_root",
        "dead.txt": "unreadable",
    }


def test_link_swapped_in_after_the_check_leads_nowhere(tmp_path: Path) -> None:
    """A folder replaced by a link between finding and opening is not entered."""
    write(tmp_path / "out/a.txt", "canary")
    write(tmp_path / "corpus/sub/a.txt", "text")
    (found,) = files.find_files(tmp_path / "corpus", lambda name: True)
    assert isinstance(found, files.CorpusFile)
    (tmp_path / "corpus/sub").rename(tmp_path / "corpus/was")
    (tmp_path / "corpus/sub").symlink_to(tmp_path / "out")
    with pytest.raises(files.Rejected) as caught:
        files.read_bytes(found, 100)
    assert caught.value.code == "outside_root"


@pytest.mark.timeout(10)
def test_fifo_and_device_do_not_hang(tmp_path: Path) -> None:
    """What is no regular file is rejected at once, in a folder or named."""
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.jsonl")
    expected = {"pipe.jsonl": "not_regular", "pipe.txt": "not_regular"}
    assert codes(tmp_path) == expected
    assert codes(tmp_path / "pipe.txt", "/dev/zero") == {
        "pipe.txt": "not_regular",
        "zero": "not_regular",
    }


def test_file_named_explicitly_needs_a_reader(tmp_path: Path) -> None:
    """An unknown suffix is passed over in a folder and rejected when asked for."""
    path = write(tmp_path / "a.docx", "text")
    assert codes(tmp_path) == {}
    assert codes(path) == {"a.docx": "unknown_type"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_forbidden_file_is_unreadable(tmp_path: Path) -> None:
    """A file without permission is rejected."""
    write(tmp_path / "a.txt", "text").chmod(0)
    assert codes(tmp_path) == {"a.txt": "unreadable"}


def test_bad_file_names_are_rejected_and_safe_to_print(tmp_path: Path) -> None:
    """Names that are not UTF-8 or hold control characters are rejected, escaped in the record."""
    for name in (b"caf\xe9.txt", b"a\nb.txt", b"\x1b[31m.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"text")
    found = codes(tmp_path)
    assert set(found.values()) == {"bad_name"}
    assert set(found) == {"caf\\udce9.txt", "a\\nb.txt", "\\x1b[31m.txt"}


def test_same_name_twice_is_rejected(tmp_path: Path) -> None:
    """Names that differ only in case or Unicode form are the same name."""
    content = rows(
        *({"id": name, "text": "t"} for name in ("caf\u00e9", "cafe\u0301", "CAF\u00c9", "d", "d"))
    )
    items = list(read_documents(write(tmp_path / "a.jsonl", content)))
    assert [type(item) for item in items] == [Document, Rejection, Rejection, Document, Rejection]
    assert {item.code for item in items if isinstance(item, Rejection)} == {"duplicate_id"}
    assert codes(tmp_path / "a.jsonl", tmp_path / "a.jsonl")["caf\u00e9"] == "duplicate_id"


def test_file_that_changes_is_read_again_then_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One change while reading is forgiven, two are not."""
    path = write(tmp_path / "a.txt", "text")
    real, stamps = files.stamp, iter([files.Stamp(4, 1), files.Stamp(4, 2)])
    monkeypatch.setattr(files, "stamp", lambda stream: next(stamps, None) or real(stream))
    assert list(documents(path)) == ["a.txt"]
    changes: Iterator[int] = iter(range(100))
    monkeypatch.setattr(files, "stamp", lambda stream: files.Stamp(4, next(changes)))
    assert codes(path) == {"a.txt": "unstable"}


def test_large_file_is_rejected_before_it_is_read(tmp_path: Path) -> None:
    """A sparse terabyte costs nothing."""
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.truncate(2**40)
    assert codes(path) == {"a.txt": "too_large"}


def test_misuse_raises(tmp_path: Path) -> None:
    """A source that is not there, or none at all, stops the call before anything is read."""
    with pytest.raises(NotFound, match="nothing"):
        read_documents([tmp_path, tmp_path / "nothing"])
    with pytest.raises(InvalidInput):
        read_documents([])
    with pytest.raises(InvalidInput):
        read_documents(["-", "-"])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".txt", ".md", ".html", ".jsonl", ".jsonl.gz"]))
def test_any_bytes_are_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    """Random bytes under any suffix never stop a run."""
    path = write(tmp_path_factory.mktemp("any") / f"a{suffix}", content)
    for item in read_documents(path):
        assert isinstance(item, Document | Rejection)
