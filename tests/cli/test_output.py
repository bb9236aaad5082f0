"""Records to text and JSON."""

from __future__ import annotations

import json

import pytest

from adapterdb.answers import Token
from adapterdb.cli.output import duration, printable, shorten, size, to_json


def test_control_characters_are_escaped() -> None:
    """Nothing of a document can move the cursor, hide text, or turn its direction."""
    hostile = "a\x1b[2J\r\x07\x9bb\u202ec\ud800\x7f"
    assert printable(hostile) == r"a\x1b[2J\r\x07\x9bb\u202ec\ud800\x7f"
    assert printable("two\nlines\tand a tab, né") == "two\nlines\tand a tab, né"
    assert printable("two\nlines\t\x00", one_line=True) == r"two lines \x00"


def test_json_is_ascii_and_has_no_nan() -> None:
    """Records, tuples and numbers that JSON lacks all come out."""
    text = to_json({"token": Token("é\x9b\ud800"), "n": (1, float("nan"), float("inf"))})
    assert text.isascii()
    assert json.loads(text) == {
        "token": {"text": "é\x9b\ud800", "answer": None},
        "n": [1, None, None],
    }


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (24_000_000, "24.0 MB"), (10**19, "10000.0 PB")],
)
def test_sizes(size_bytes: int, words: str) -> None:
    """Decimal units, one place."""
    assert size(size_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (36_480, "10 h 8 min")],
)
def test_durations(seconds: float, words: str) -> None:
    """Two units at most."""
    assert duration(seconds) == words


def test_shorten() -> None:
    """One line, no longer than asked."""
    assert shorten("short\n text", 20) == "short text"
    assert shorten("x" * 30, 10) == "xxxxxxx..."
