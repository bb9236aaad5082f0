"""The prepared data in memory, and random windows of its passages."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.mini.prompts import Piece


@dataclass(frozen=True)
class Question:
    """A question on one passage; `start` is the answer's first character in its text."""

    passage: int
    question: str
    answer: str
    start: int


class Corpus:
    """Passages, questions and plain text of one side of the article split.

    `questions_of[passage]` lists a passage's questions; `article_of[title]` its passages.
    """

    def __init__(self, folder: Path, held_out: bool = False) -> None:
        records = _read(folder / "passages.jsonl")
        keep = {i for i, record in enumerate(records) if record["held_out"] == held_out}
        self.pieces = [Piece(record["title"], record["text"]) for record in records]
        every = (Question(**record) for record in _read(folder / "questions.jsonl"))
        self.questions = [question for question in every if question.passage in keep]
        self.texts = [Piece(**record) for record in _read(folder / "texts.jsonl")]
        self.questions_of: dict[int, list[Question]] = {}
        for question in self.questions:
            self.questions_of.setdefault(question.passage, []).append(question)
        self.passages = sorted(self.questions_of)
        self.article_of: dict[str, list[int]] = {}
        for passage in self.passages:
            self.article_of.setdefault(self.pieces[passage].title, []).append(passage)

    def other(self, passage: int, same_article: bool, rng: random.Random) -> int:
        """Another passage, of the same article or of a different one (where there is one)."""
        title = self.pieces[passage].title
        if same_article:
            choices = [p for p in self.article_of[title] if p != passage]
            if choices:
                return rng.choice(choices)
        found = rng.choice(self.passages)
        for _ in range(100):
            if self.pieces[found].title != title:
                break
            found = rng.choice(self.passages)
        return found


def window(text: str, start: int, length: int, size: int, rng: random.Random) -> str:
    """About `size` characters of whole words that contain text[start:start + length]."""
    if len(text) <= size:
        return text
    room = max(size - length, 0)
    left = max(0, min(start - rng.randint(0, room), len(text) - size))
    right = min(len(text), max(left + size, start + length))
    while left > 0 and not text[left - 1].isspace():
        left -= 1
    while right < len(text) and not text[right].isspace():
        right += 1
    return text[left:right].strip()


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
