"""Prompt templates as data, and how they become token ids.

A template lies beside its base model as ``prompts.json``; a model without one gets ``DEFAULT``.
The literal parts of a template are trusted and may name special tokens; the question and the
passages are not, so they are tokenised apart, and a "[SEP]" or "</s>" written in them stays text.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from adapterdb.errors import InvalidInput

FILE_NAME = "prompts.json"
_FIELD = re.compile(r"\{(question|passages|answer|title|text)\}")
T = TypeVar("T")


class DocumentToken(NamedTuple):
    """A token of a document prompt and the characters it stands for.

    Attributes:
        id: of the token.
        field: ``title``, ``text``, or empty for a literal part of the template.
        start, end: its characters ``[start, end)`` in that field; 0, 0 for a literal part.
    """

    id: int
    field: str
    start: int
    end: int


class Document(NamedTuple):
    """What a delta is fitted to.

    Attributes:
        prompt: ids that stand before and carry no loss; empty for most base models.
        text: ids that carry loss, the first of them only behind a prompt.
    """

    prompt: list[int]
    text: list[int]


@dataclass(frozen=True)
class Prompts:
    """The templates of a base model.

    Args:
        blind: question without text; fields ``{question}``.
        context: question with text; fields ``{question}``, ``{passages}``.
        document: what a delta is fitted to; field ``{passages}``.
        document_prompt: stands before ``document`` and carries no loss; field ``{passages}``, so
            that what comes early in a passage is learned knowing what comes late. Its passage is
            cut to the room that ``document`` leaves. May be empty.
        plain: running text, as its perplexity is measured; field ``{passages}``.
        passage: one passage; fields ``{title}``, ``{text}``; untitled passages are only the text.
        passage_separator: between passages.
        ask: asks the model to write a question; fields ``{answer}``, ``{passages}``; may be empty.
        restate: asks for a sentence made of the bare words ``{text}``; may be empty.
        passages: how many passages the model reads best, 1 or more; the default k.
        stop: texts that end an answer.
        max_new_tokens: default length of an answer.
        blind_beams: beams of an answer without text, 1 (greedy) or more; the default.
        length_penalty: of beam search, see ``Generation``; the default.
    """

    blind: str = "{bos}Question: {question}\nAnswer:"
    context: str = "{bos}{passages}\n\nQuestion: {question}\nAnswer:"
    document: str = "{bos}{passages}"
    document_prompt: str = ""
    plain: str = "{bos}{passages}"
    passage: str = "{title}: {text}"
    passage_separator: str = "\n\n"
    ask: str = ""
    restate: str = ""
    passages: int = 3
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 32
    blind_beams: int = 1
    length_penalty: float = 1.0


DEFAULT = Prompts()


def read_prompts(folder: Path) -> Prompts:
    """The templates in ``folder/prompts.json``, or ``DEFAULT`` where there is none.

    Raises:
        InvalidInput: if the file is not a JSON object of known string fields.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return DEFAULT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from error
    known = {entry.name for entry in fields(Prompts)}
    if not isinstance(data, dict) or not set(data) <= known:
        raise InvalidInput(f"{path}: expected an object with keys among {sorted(known)}")
    if "stop" in data:
        data["stop"] = tuple(data["stop"])
    return Prompts(**data)


class PromptEncoder:
    """Turns templates, questions and passages into token ids.

    Args:
        prompts: the templates.
        tokenizer: a transformers tokenizer.
        max_length: tokens the base model can take, prompt and answer together.
    """

    def __init__(self, prompts: Prompts, tokenizer: Any, max_length: int) -> None:
        self.prompts = prompts
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # whether to split special tokens is state of the tokenizer
        self._literals: dict[str, list[int]] = {}

    def blind(self, question: str) -> list[int]:
        """The ids of the question alone."""
        return self._fill(self.prompts.blind, question=self.text(question))

    def context(
        self, question: str, passages: Sequence[tuple[str, str]], answer_tokens: int
    ) -> tuple[list[int], int]:
        """The ids of the question with as many passages as fit.

        Args:
            question: the question.
            passages: ``(title, text)``, best first.
            answer_tokens: room kept free for the answer.

        Returns:
            The ids, and how many passages are in them; the last one may be cut short.
        """
        asked = self.text(question)
        empty = self._fill(self.prompts.context, question=asked, passages=[])
        room = self.max_length - answer_tokens - len(empty)
        separator = self.text(self.prompts.passage_separator)
        ids: list[int] = []
        used = 0
        for title, text in passages:
            piece = (separator if used else []) + self.passage(title, text)
            if room < len(piece) and used and room < 32:
                break  # a stump this short would only mislead
            ids += piece[:room]
            room -= len(piece)
            used += 1
            if room <= 0:
                break
        return self._fill(self.prompts.context, question=asked, passages=ids), used

    def ask(self, answer: str, title: str, text: str, question_tokens: int) -> list[int]:
        """The ids of an answer and a passage, to be continued by a question of that many tokens.

        The passage is cut to what fits. Empty where the model has no such template.
        """
        said = self.text(answer)
        empty = self._fill(self.prompts.ask, answer=said, passages=[])
        room = max(0, self.max_length - question_tokens - len(empty))
        return self._fill(self.prompts.ask, answer=said, passages=self.passage(title, text)[:room])

    def restate(self, words: str, sentence_tokens: int) -> list[int]:
        """The ids of bare words, cut to what fits, to be continued by a sentence."""
        empty = self._fill(self.prompts.restate, text=[])
        room = max(0, self.max_length - sentence_tokens - len(empty))
        return self._fill(self.prompts.restate, text=self.text(words)[:room])

    def document(self, title: str, text: str, limit: int | None = None) -> Document:
        """The ids a delta of this passage is fitted to.

        Args:
            title, text: the passage.
            limit: of all ids together; None means the model's length, which is always a limit.
        """
        limit = min(limit or self.max_length, self.max_length)
        inner = self.passage(title, text)
        ids = self._fill(self.prompts.document, passages=inner)[:limit]
        room = limit - len(ids) - len(self._fill(self.prompts.document_prompt, passages=[]))
        if room < 0:
            return Document([], ids)
        return Document(self._fill(self.prompts.document_prompt, passages=inner[:room]), ids)

    def plain(self, title: str, text: str) -> list[int]:
        """The ids of a passage as running text, cut to the model's length."""
        return self._fill(self.prompts.plain, passages=self.passage(title, text))[: self.max_length]

    def document_tokens(self, title: str, text: str) -> list[DocumentToken]:
        """The text of ``document`` with the place of each token: the same ids in the same order.

        Raises:
            InvalidInput: if the tokenizer is a slow one, which knows no places.
        """

        def literal(part: str) -> list[DocumentToken]:
            return [DocumentToken(i, "", 0, 0) for i in self._literal(part)]

        inner = self._placed("text", text)
        if title:
            values = {"title": self._placed("title", title), "text": inner}
            inner = _filled(self.prompts.passage, self._bos, literal, values)
        whole = _filled(self.prompts.document, self._bos, literal, {"passages": inner})
        return whole[: self.max_length]

    def passage(self, title: str, text: str) -> list[int]:
        """The ids of one passage as it stands in a prompt."""
        if not title:
            return self.text(text)
        return self._fill(self.prompts.passage, title=self.text(title), text=self.text(text))

    def text(self, text: str) -> list[int]:
        """The ids of untrusted text: no special tokens, not even where it spells one."""
        return self._encode(text, split_special_tokens=True)

    def answer(self, answer: str) -> list[int]:
        """The ids of an answer as the model should say it, the first stop included."""
        return self.text(" " + answer) + self._literal(self.prompts.stop[0])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def stops(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Token ids that end an answer, and texts that do."""
        ids = {self._tokenizer.eos_token_id} - {None}
        texts = []
        for stop in self.prompts.stop:
            one = self._literal(stop)
            if len(one) == 1 and one[0] in self._tokenizer.all_special_ids:
                ids.add(one[0])
            else:
                texts.append(stop)
        return frozenset(ids), tuple(texts)

    def tokenizer_json(self) -> str:
        """The whole tokenizer as the text of a ``tokenizer.json``; InvalidInput for a slow one."""
        self._need_fast()
        return str(self._tokenizer.backend_tokenizer.to_str())

    def special_tokens(self) -> dict[str, str]:
        """What the tokenizer's special tokens are called, by role (``bos_token`` ...)."""
        return {k: str(v) for k, v in self._tokenizer.special_tokens_map.items() if v}

    def _need_fast(self) -> None:
        if not getattr(self._tokenizer, "is_fast", False):
            raise InvalidInput(
                f"{type(self._tokenizer).__name__} can't say which characters a token stands for",
                hint="token weights need a base model with a fast tokenizer (tokenizer.json)",
            )

    def _fill(self, template: str, **values: list[int]) -> list[int]:
        """Ids of the template's literal parts with the fields' ids between them."""
        return _filled(template, self._bos, self._literal, values)

    @property
    def _bos(self) -> str:
        return self._tokenizer.bos_token or ""

    def _placed(self, field: str, text: str) -> list[DocumentToken]:
        """The tokens of untrusted text with their places."""
        self._need_fast()
        if not text:
            return []
        with self._lock:
            found = self._tokenizer(
                text,
                add_special_tokens=False,
                split_special_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
        places = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [DocumentToken(int(i), field, int(a), int(b)) for i, (a, b) in places]

    def _literal(self, text: str) -> list[int]:
        """Ids of a part of a template; kept, as changing the tokenizer's state takes long."""
        if text not in self._literals:
            self._literals[text] = self._encode(text, split_special_tokens=False)
        return self._literals[text]

    def _encode(self, text: str, *, split_special_tokens: bool) -> list[int]:
        if not text:
            return []
        with self._lock:
            encoded = self._tokenizer(
                text,
                add_special_tokens=False,
                split_special_tokens=split_special_tokens,
                verbose=False,
            )
        return [int(i) for i in encoded["input_ids"]]


def _filled(
    template: str, bos: str, literal: Callable[[str], list[T]], values: Mapping[str, list[T]]
) -> list[T]:
    """A template's literal parts with the fields' values between them."""
    found: list[T] = []
    for i, part in enumerate(_FIELD.split(template.replace("{bos}", bos))):
        found += values[part] if i % 2 else literal(part)
    return found
