"""What was asked for, out of what a model said. Returns None or nothing rather than a guess."""

from __future__ import annotations

import json
import re
from typing import Any

Pair = tuple[str, str]

_ITEM = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*•])\s+(.*\S)\s*$")
_LABEL = re.compile(
    r"^[ \t]*(?:\d{1,3}[.)][ \t]*)?\**(q(?:uestion)?|a(?:nswer)?)[ \t]*\d*[ \t]*\**[ \t]*:[ \t*]*",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"\w+")
_ARTICLES = frozenset(["a", "an", "the"])
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)


def clean(text: str) -> str:
    """``text`` without what can't be stored: half surrogates, NUL, and a model's thinking aloud."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return _THINKING.sub("", text).strip()


def numbered(text: str) -> list[str]:
    """The items of a numbered or bulleted list, each on one line; other lines are passed over."""
    return [
        " ".join(match[1].split()) for line in text.splitlines() if (match := _ITEM.match(line))
    ]


def pairs(text: str) -> list[Pair]:
    """The questions and answers of "Q: ... A: ..." blocks, however they are spaced or numbered."""
    marks = list(_LABEL.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    found: list[Pair] = []
    question = ""
    for mark, end in zip(marks, ends, strict=False):
        said = " ".join(text[mark.end() : end].split()).strip("* ")
        if mark[1][0] in "qQ":
            question = said
        elif question and said:
            found.append((question, said))
            question = ""
    return found


def is_skip(text: str) -> bool:
    """Whether all that was said is SKIP."""
    return text.strip(" \t\r\n.*\"'").upper() == "SKIP"


def json_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in ``text``, with or without words or a code fence around it."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation and English articles."""
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES]


def same_words(text: str) -> str:
    """What two texts have in common if they differ only in case, spacing and punctuation."""
    return " ".join(words(text))
