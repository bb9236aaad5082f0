"""Reading what ``adb augment`` writes, and rows that are not quite that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapterdb.config import LimitConfig
from adapterdb.errors import Rejected
from adapterdb.ingest.readers import Rejection, check_document, read_documents
from adapterdb.records import Augmentation, Document, Fact

PAIR = {"question": "Who?", "answer": "Ann"}
ENTRY = {
    "start": 0, "end": 4, "theme": "Weirs", "rewrite": "It broke.", "qa": [PAIR],
    "facts": [{"text": "It fell.", "roles": ["a smith"], "qa": [PAIR], "held_out": [PAIR]}],
}  # fmt: skip


def read(tmp_path: Path, **fields: Any) -> Document | Rejection:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "weir", "text": "It fell.", **fields}) + "\n")
    [found] = read_documents(path)
    return found


def test_a_whole_row(tmp_path: Path) -> None:
    """Every field arrives; what wrote it is no metadata."""
    by = {"generator": "mini"}
    found = read(tmp_path, augmented=[ENTRY], augmented_by=by, description="On weirs.", tag=["a"])
    assert isinstance(found, Document)
    pairs = (("Who?", "Ann"),)
    fact = Fact("It fell.", pairs, pairs, ("a smith",))
    assert found.augmented == (Augmentation(0, 4, "Weirs", "It broke.", pairs, (fact,)),)
    assert found.metadata == {"description": "On weirs.", "tag": ["a"]}


def test_parts_may_be_missing(tmp_path: Path) -> None:
    """A span alone is enough."""
    found = read(tmp_path, augmented=[{"start": 3, "end": 8}])
    assert isinstance(found, Document)
    assert found.augmented == (Augmentation(3, 8),)


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        ["x"],
        [{"start": 0}],
        [{"start": 0, "end": 9}],
        [{"start": -1, "end": 2}],
        [{"start": 2, "end": 2}],
        [{"start": 0, "end": 2.0}],
        [{"start": False, "end": True}],
        [{**ENTRY, "qa": {}}],
        [{**ENTRY, "qa": [{"question": "Who?"}]}],
        [{**ENTRY, "theme": 3}],
        [{**ENTRY, "facts": ["It fell."]}],
        [{**ENTRY, "facts": [{"qa": []}]}],
        [{**ENTRY, "facts": [{"text": "It fell.", "qa": [PAIR], "roles": ["a", "b"]}]}],
        [{**ENTRY, "facts": [{"text": "It fell.", "qa": [PAIR], "roles": "a"}]}],
    ],
)
def test_bad_rows(tmp_path: Path, wrong: Any) -> None:
    """Wrong kinds, and spans outside the text, reject the document."""
    found = read(tmp_path, augmented=wrong)
    assert isinstance(found, Rejection)
    assert (found.name, found.code) == ("weir", "bad_row")


@pytest.mark.parametrize("place", ["theme", "rewrite", "pair", "fact", "role", "held_out"])
def test_every_text_is_checked(place: str) -> None:
    """A NUL anywhere in what was written can't be stored."""
    bad = {place: "a\0b"}
    fact = Fact(
        bad.get("fact", "f"),
        (("q", "a"),),
        ((bad.get("held_out", "q"), "a"),),
        (bad.get("role", "r"),),
    )
    entry = Augmentation(
        0, 4, bad.get("theme", ""), bad.get("rewrite", ""), (("q", bad.get("pair", "a")),), (fact,)
    )
    with pytest.raises(Rejected) as caught:
        check_document(Document("d", "text", augmented=(entry,)), LimitConfig())
    assert caught.value.code == "nul"
