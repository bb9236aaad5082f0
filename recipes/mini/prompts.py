"""Prompt templates to token ids.

Owns the rule that template literals and user text are tokenised apart: a literal "[SEP]" in a
template is the special token, the same characters in user text are ordinary text. Knows nothing
of models or of batches.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

PROMPTS_PATH = Path(__file__).with_name("prompts.json")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Piece:
    """A passage as it is shown to the model; an empty title shows the text alone."""

    title: str
    text: str


class Prompts:
    """The project's prompt formats over one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, path: Path = PROMPTS_PATH) -> None:
        self.tokenizer = tokenizer
        self.templates = json.loads(path.read_text(encoding="utf-8"))
        self.stop_id: int = tokenizer.convert_tokens_to_ids(self.templates["stop"][0])
        self._literal = lru_cache(maxsize=None)(self._encode_literal)

    def text(self, text: str) -> list[int]:
        """Ids of user text; special tokens written in it stay ordinary characters."""
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids

    def blind(self, question: str) -> list[int]:
        """The question alone."""
        return self._fill("blind", {"question": self.text(question)})

    def context(self, question: str, pieces: Sequence[Piece], limit: int) -> list[int]:
        """The question with passages, whose end is cut where all is more than `limit` tokens."""
        return self._shown("context", "question", question, pieces, limit)

    def document(self, pieces: Sequence[Piece], limit: int) -> tuple[list[int], list[int]]:
        """Passages as a delta is made from them: a prompt, cut to the room there is, and a text."""
        inner = self._passages(pieces)
        text = self._fill("document", {"passages": inner})[:limit]
        room = limit - len(text) - len(self._fill("document_prompt", {"passages": []}))
        if room < 0:
            return [], text
        return self._fill("document_prompt", {"passages": inner[:room]}), text

    def plain(self, pieces: Sequence[Piece]) -> list[int]:
        """Passages as running text."""
        return self._fill("plain", {"passages": self._passages(pieces)})

    def ask(self, answer: str, pieces: Sequence[Piece], limit: int) -> list[int]:
        """An answer with passages, cut likewise, to be continued by a question."""
        return self._shown("ask", "answer", answer, pieces, limit)

    def restate(self, words: str) -> list[int]:
        """The bare words of a sentence, to be continued by a sentence."""
        return self._fill("restate", {"text": self.text(words)})

    def target(self, text: str) -> list[int]:
        """What the model is to generate: the text and the stop token."""
        return [*self.text(text), self.stop_id]

    def _shown(
        self, name: str, field: str, value: str, pieces: Sequence[Piece], limit: int
    ) -> list[int]:
        fields = {field: self.text(value), "passages": self._passages(pieces)}
        ids = self._fill(name, fields)
        if len(ids) > limit:
            fields["passages"] = fields["passages"][: limit - len(ids)]
            ids = self._fill(name, fields)
        return ids

    def _passages(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            if number:
                ids += self._literal(self.templates["passage_separator"])
            text = self.text(piece.text)
            if piece.title:
                ids += self._fill("passage", {"title": self.text(piece.title), "text": text})
            else:
                ids += text
        return ids

    def _fill(self, name: str, fields: dict[str, list[int]]) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(_FIELD.split(self.templates[name])):
            ids += fields[part] if number % 2 else self._literal(part)
        return ids

    def _encode_literal(self, literal: str) -> list[int]:
        return self.tokenizer(literal, add_special_tokens=False).input_ids


class Mask:
    """Shows part of a prompt as `[MASK]`, so that a passage seen before is not known by heart.

    Args:
        tokenizer: knows the special tokens.
        rate: share of the tokens hidden, in half of the prompts; 0..1.
        rng: source of chance.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rate: float, rng: random.Random) -> None:
        self.rate, self.rng = rate, rng
        self._hidden: int = tokenizer.mask_token_id
        self._special = frozenset(tokenizer.all_special_ids)

    def __call__(self, prompt: list[int], target: Sequence[int]) -> list[int]:
        """The prompt; what it has in common with the target, and special tokens, always show."""
        if not self.rate or self.rng.random() < 0.5:
            return prompt
        shown = self._special.union(target)
        return [i if i in shown or self.rng.random() >= self.rate else self._hidden for i in prompt]
