"""The prepared data in memory, and random windows of its passages."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdb.training.sentences import sentences
from recipes.mini.cloze import cloze
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

    `pieces` are the passages that people asked about (all of them, of both sides), then the texts.
    `questions_of[passage]` lists a passage's questions, people's, or the model's own on a text
    (`invented`); `article_of[title]` its passages; `passages` and `unasked` number the two kinds.
    """

    def __init__(self, folder: Path, held_out: bool = False) -> None:
        records = _read(folder / "passages.jsonl")
        keep = {i for i, record in enumerate(records) if record["held_out"] == held_out}
        self.pieces = [Piece(record["title"], record["text"]) for record in records]
        every = (Question(**record) for record in _read(folder / "questions.jsonl"))
        self.questions = [question for question in every if question.passage in keep]
        self.texts = [Piece(**record) for record in _read(folder / "texts.jsonl")]
        first = len(self.pieces)
        self.pieces += self.texts
        self.unasked = range(first, len(self.pieces))
        self.passages = sorted({question.passage for question in self.questions})
        path = folder / "invented.jsonl"
        own = _read(path) if path.exists() and not held_out else []
        self.invented = [Question(first + r.pop("text"), **r) for r in own]
        self.questions_of: dict[int, list[Question]] = {}
        for question in self.questions + self.invented:
            self.questions_of.setdefault(question.passage, []).append(question)
        self.article_of: dict[str, list[int]] = {}
        for passage in [*self.passages, *self.unasked]:
            self.article_of.setdefault(self.pieces[passage].title, []).append(passage)

    def text(self, rng: random.Random) -> int:
        """A piece of plain text, half of the time one that the model asked about (`invented`)."""
        if self.invented and rng.random() < 0.5:
            return rng.choice(self.invented).passage
        return rng.choice(self.unasked)

    def clozes(self, passage: int, rng: random.Random) -> list[Question]:
        """Questions by rule, one for each sentence of a passage that has something to ask for."""
        piece, found, at = self.pieces[passage], [], 0
        for sentence in sentences(piece.text):
            made = cloze(sentence, piece.title, rng)
            start = piece.text.find(sentence, at)  # not found where white space was made single
            if start >= 0:
                at = start + len(sentence)
            if made is not None and start >= 0:
                found.append(Question(passage, made.question, made.answer, start + made.start))
        return found

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
