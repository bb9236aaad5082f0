"""What models say, in all its forms."""

from __future__ import annotations

from adapterdb.ingest.augment.parse import (
    clean,
    is_skip,
    json_object,
    numbered,
    pairs,
    same_words,
)


def test_numbered_lines() -> None:
    """Numbers and bullets count, other lines do not."""
    text = "Facts:\n1. One  is.\n 2) Two is.\n- Three is.\n\nThat was all of 4. them."
    assert numbered(text) == ["One is.", "Two is.", "Three is."]
    assert numbered("No list at all.") == []


def test_question_answer_blocks() -> None:
    """Numbered, bold, spelled out, spread over lines; a question without answer is none."""
    text = (
        "Q: Who?\nA: Ann\n\n2. **Question 2:** Where\nis it?\n**Answer:** In\nSedd\n"
        "Q: Lost?\nQ: When?\nA: 1874"
    )
    assert pairs(text) == [("Who?", "Ann"), ("Where is it?", "In Sedd"), ("When?", "1874")]
    assert pairs("A: alone\nQ: open?") == []
    assert pairs("He said: IQ: 3") == []


def test_skip() -> None:
    """The word alone, however it is dressed."""
    assert is_skip(" **Skip.**\n")
    assert not is_skip("Q: Would you skip?\nA: no")


def test_json_objects() -> None:
    """The first object counts, in a fence or between words; no other kind of value does."""
    assert json_object('Sure {x}:\n```json\n{"a": {"b": 1}}\n```') == {"a": {"b": 1}}
    assert json_object("[1, 2]") is None
    assert json_object('{"a": 1') is None
    assert json_object("{" * 5000) is None


def test_clean() -> None:
    """What can't be stored goes, and so does thinking aloud."""
    assert clean("<think>Hm.\n</think> a\0b\ud800 ") == "ab?"


def test_same_words() -> None:
    """Case, punctuation and articles make no other question."""
    assert same_words("Who built the weir?") == same_words("who BUILT weir")
    assert same_words("Who built it?") != same_words("Who built them?")
