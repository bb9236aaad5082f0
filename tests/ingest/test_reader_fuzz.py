"""Documents from strangers, in process and without the slowest: all of T13 is in benchmarks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import hostile_documents as hostile
import pytest
from document_fuzz import read_all

from adapterdb.config import LimitConfig
from adapterdb.errors import Rejected
from adapterdb.ingest import pdf_text
from adapterdb.ingest.front_matter import split_front_matter, to_metadata
from adapterdb.ingest.html_text import html_text
from adapterdb.ingest.readers import check_document
from adapterdb.records import Document

SLOW = (
    "10 MB",
    "60 MB",
    "100 MB",
    "operators",
    "many bad rows",
    "of lists",
    "bomb",
    "2 MB",
    "scripts",
)
QUICK = [name for name in hostile.CONTENTS if not name.endswith(SLOW)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a canary beside it."""
    (tmp_path / "outside.txt").write_text(hostile.CANARY)
    made = tmp_path / "corpus"
    made.mkdir()
    return made


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", QUICK)
def test_hostile_content_is_read_exactly_or_rejected(corpus: Path, name: str) -> None:
    """Each content becomes what it may become, and is stored as it was."""
    hostile.make_content(name, corpus)
    counts, wrong = read_all(str(corpus))
    allowed = hostile.CONTENTS[name][2]
    assert not wrong
    assert set(counts) <= set(allowed.split())
    assert counts or allowed == "passed"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "place",
    [place for place in hostile.PLACES if place not in (hostile.deep_tree, hostile.many_files)],
    ids=lambda place: place.__name__,
)
def test_hostile_places_are_not_entered(corpus: Path, place: Callable[[Path], None]) -> None:
    """Links, pipes, sockets and names lead nowhere, and never to the canary outside."""
    place(corpus)
    counts, wrong = read_all(str(corpus))
    assert not wrong
    assert counts
    assert set(counts) <= set(hostile.PLACES[place].split())


def test_random_files_are_read_or_rejected(tmp_path: Path) -> None:
    """Noise and wrongly joined pieces of formats never stop a run."""
    source = random.Random(4)
    for i in range(150):
        suffix, data = hostile.random_content(source)
        if suffix != ".pdf":  # each of them starts a process
            (tmp_path / f"{i}{suffix}").write_bytes(data)
    counts, wrong = read_all(str(tmp_path))
    assert counts.total() > 50
    assert not wrong, "seed 4"


@pytest.mark.timeout(20)
def test_pdf_that_wants_too_much_is_stopped(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory, time and output of the process that parses a PDF are bounded."""
    pytest.importorskip("pypdf")
    bomb = hostile.pdf(hostile.zlib.compress(b" " * (120 * hostile.MB), 1), filters=hostile.FLATE)
    text = hostile.pdf(b"BT /F1 9 Tf " + b"(some words of it) Tj " * 5000)
    for data, limit, code in ((bomb, 10**7, "bomb"), (text, 1000, "too_large")):
        with pytest.raises(Rejected) as caught:
            pdf_text.pdf_text(data, limit)
        assert caught.value.code == code
    monkeypatch.setattr(pdf_text, "PDF_SECONDS", 0.05)
    with pytest.raises(Rejected, match="seconds"):
        pdf_text.pdf_text(text, 10**7)


def test_child_that_dies_or_lies_is_a_broken_pdf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the parsing process does, the reader says broken_pdf and goes on."""
    child = tmp_path / "child.py"
    monkeypatch.setattr(pdf_text, "_CHILD", child)
    for program in ("import os; os.abort()", "print('{')", "print('[]')", "print('{}')"):
        child.write_text(program)
        with pytest.raises(Rejected) as caught:
            pdf_text.pdf_text(b"", 100)
        assert caught.value.code == "broken_pdf"


def test_number_that_is_no_character_is_replaced() -> None:
    """A numeric reference too long for Python's int is what browsers make of it."""
    assert html_text("a &#" + "9" * 5000 + "; b").text == "a \ufffd b"
    assert html_text("a &#65; b").text == "a A b"


@pytest.mark.parametrize("block", ["a: !!bool maybe", "a: !!int ''", "a: !!timestamp soon"])
def test_tagged_front_matter_is_text(block: str) -> None:
    """Tags, on which PyYAML fails in many ways, make the block ordinary text."""
    page = f"---\n{block}\n---\nbody"
    assert split_front_matter(page) == ({}, page)


def test_front_matter_gives_strings_and_finite_numbers_only() -> None:
    """An explicit string stays one, foreign digits are no date, infinity is left out."""
    page = f"---\na: !!str 3\nb: 2\u066424-05-01\nc: {'9' * 400}.0\n---\n"
    assert to_metadata(split_front_matter(page).fields) == {"a": "3", "b": "2\u066424-05-01"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, None, {"a": 1}, [1], b"x"])
def test_metadata_that_no_catalog_can_hold_is_rejected(value: object) -> None:
    """A document made by a program is held to the same values as a file."""
    document = Document("a", "text", metadata={"x": value})  # type: ignore[dict-item]
    with pytest.raises(Rejected) as caught:
        check_document(document, LimitConfig())
    assert caught.value.code == "bad_metadata"


def test_checking_twice_changes_nothing() -> None:
    """A title cut at a space has none at its end."""
    once = check_document(Document("a", "text", title="ab " * 200), LimitConfig())
    assert check_document(once, LimitConfig()) == once
