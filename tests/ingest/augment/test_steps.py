"""What single steps accept, and lines that were torn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapterdb.ingest.augment.dictation import Dictation
from adapterdb.ingest.augment.facts import write_facts
from adapterdb.ingest.augment.generator import Sampling, Skill
from adapterdb.ingest.augment.lines import append_lines, read_lines
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.prag import write_prag
from adapterdb.ingest.augment.tags import write_tags
from adapterdb.ingest.augment.written import Account, PassageWriting, Piece
from adapterdb.records import Document, Passage

PIECE = Piece("d", "T", Passage(0, 0, 16, "The mill burned.", 4))
QA = [{"question": f"Q{i}?", "answer": "mill"} for i in range(3)]


class Says:
    """Says the same to every prompt, or what a mark in the prompt asks for."""

    name, fingerprint, at_once = "says", "1", 9
    skill: Skill = "instructions"

    def __init__(self, text: str = "", **by_mark: str) -> None:
        self.text, self.by_mark = text, by_mark

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """One text for each."""
        return [next((t for m, t in self.by_mark.items() if m in p), self.text) for p in prompts]


@pytest.mark.parametrize(
    ("description", "tags", "good"),
    [
        ("A text.", ["a", "b", "c", "d", "e"], True),
        ("A text.", ["a", "b", "c", "d"], False),
        ("A text.", ["a", "b", "c", "d", "e", "f"], False),
        ("A text.", ["a", "b", "c", "d", "A"], False),
        ("A text. Two. Three.", ["a", "b", "c", "d", "e"], False),
        ("", ["a", "b", "c", "d", "e"], False),
    ],
)
def test_exactly_five_tags(description: str, tags: list[str], good: bool) -> None:
    said, account = json.dumps({"description": description, "tags": tags}), Account()
    fields = write_tags(Document("d", "x"), AugmentPlan(), Dictation(Says(said)), account)
    assert bool(fields) == good == (not account.lacks)


@pytest.mark.parametrize(
    ("data", "good"),
    [
        ({"rewrite": "Fire took the mill.", "qa": QA}, True),
        ({"rewrite": "the mill BURNED", "qa": QA}, False),
        ({"rewrite": "", "qa": QA}, False),
        ({"rewrite": "Fire took the mill.", "qa": QA[:2]}, False),
    ],
)
def test_a_rewrite_says_it_anew(data: dict[str, Any], good: bool) -> None:
    """The same words are no rewrite; two pairs are not three."""
    written, account = PassageWriting(), Account()
    write_prag([PIECE], [written], AugmentPlan(), Dictation(Says(json.dumps(data))), account)
    assert (bool(written.rewrite), len(written.qa)) == ((True, 3) if good else (False, 0))
    assert bool(account.lacks) == (not good)


def test_what_tests_a_fact_is_never_learned() -> None:
    """A paraphrase that a role has asked already is no held-out question, nor is the seed."""
    says = Says(
        "1. The mill burned.",
        **{
            "What is this passage": "mills",
            "single word SKIP": "Q: What burned?\nA: mill",
            "Topic: mills\n\nName": "1. a smith",
            "Imagine": "Q: Which house burned?\nA: mill\nQ: what BURNED\nA: mill",
            "Put the same": "Q: which house burned\nA: mill\nQ: What burned?\nA: mill\n"
            "Q: What did fire take?\nA: mill",
        },
    )
    written, account = PassageWriting(), Account()
    plan = AugmentPlan(qa_per_fact=2, roles=1)
    write_facts([PIECE], [written], plan, Dictation(says), account)
    [fact] = written.facts
    assert fact.qa == (("Which house burned?", "mill"),)
    assert fact.held_out == (("What did fire take?", "mill"),)
    assert [(lack.step, lack.reason[:6]) for lack in account.lacks] == [
        ("qa", "1 of 2"), ("held_out", "1 of 2"),
    ]  # fmt: skip


def test_lines_are_appended_after_whole_lines(tmp_path: Path) -> None:
    """Half a line of a killed process does not spoil the next one."""
    path = tmp_path / "x.jsonl"
    append_lines(path, [{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"a": ' + b"2" * 200_000)
    assert list(read_lines(path)) == [{"a": 1}]
    append_lines(path, [{"a": 3}])
    assert list(read_lines(path)) == [{"a": 1}, {"a": 3}]
