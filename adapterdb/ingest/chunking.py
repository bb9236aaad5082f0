"""Passages out of a document: pieces of a bounded number of tokens, cut where the text pauses.

Semantics: ``passage.text == text[passage.start:passage.end]`` in characters, in order of start,
``1 <= passage.tokens <= config.tokens``. Tokens are the tokenizer's own, special tokens not
counted.

The cutting is semantic-text-splitter's: paragraphs, lines, sentences, words, in that order of
preference. Its time grows faster than the text (15 s for 1 MB of Markdown), so it sees a window at
a time; the last piece of a window begins the next one, so that window borders leave no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput, Rejected
from adapterdb.records import Passage

WINDOW_CHARS_PER_TOKEN = 48  # some eight passages of prose; also the most that one passage can hold
SHORT_SHARE = 8  # a last passage under 1/8 of the budget joins the one before it


class Chunker:
    """Cuts texts into passages; build it once, for it copies the tokenizer.

    Args:
        tokenizer: a transformers or tokenizers one, or a function that counts the tokens of a str.
        config: tokens per passage and overlap.
    """

    def __init__(self, tokenizer: Any, config: ChunkConfig) -> None:
        self.budget = config.tokens
        self.window = WINDOW_CHARS_PER_TOKEN * config.tokens
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if isinstance(backend, Tokenizer):
            copy = Tokenizer.from_str(backend.to_str())  # the caller's keeps its settings
            copy.no_truncation()
            copy.no_padding()
            self.count: Callable[[str], int] = lambda text: len(
                copy.encode(text, add_special_tokens=False).ids
            )
            self.splitter = TextSplitter.from_huggingface_tokenizer(
                copy, config.tokens, config.overlap
            )
            return
        if hasattr(tokenizer, "encode"):
            self.count = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
        elif callable(tokenizer):
            self.count = tokenizer
        else:
            raise InvalidInput(f"{tokenizer!r} is no tokenizer and no function that counts tokens")
        self.splitter = TextSplitter.from_callback(self.count, config.tokens, config.overlap)

    def split(self, text: str) -> list[Passage]:
        """The passages of ``text``, as the module says; none if it has no token.

        Raises:
            Rejected: ``bad_encoding`` if it holds half a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Rejected(
                f"half a surrogate pair at position {error.start}", code="bad_encoding"
            ) from error
        spans = [span for raw in self._spans(text) for span in self._fit(text, *raw)]
        if len(spans) > 1 and spans[-1].tokens * SHORT_SHARE < self.budget:
            start, end = spans[-2].start, spans[-1].end
            tokens = self.count(text[start:end])
            if tokens <= self.budget and end - start <= self.window:
                spans[-2:] = [_Span(start, end, tokens)]
        return [
            Passage(i, s.start, s.end, text[s.start : s.end], s.tokens) for i, s in enumerate(spans)
        ]

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each piece, window by window."""
        position = 0
        while position < len(text):
            end = position + self.window
            pieces = self.splitter.chunk_indices(text[position:end])
            last = end >= len(text)
            kept = pieces if last or len(pieces) < 2 else pieces[:-1]
            for start, piece in kept:
                yield position + start, position + start + len(piece)
            position = end if len(kept) == len(pieces) else position + pieces[-1][0]

    def _fit(self, text: str, start: int, end: int) -> Iterator[_Span]:
        """The span, halved until it fits, should the splitter have counted otherwise than we do."""
        piece = text[start:end]
        tokens = self.count(piece)
        if tokens > self.budget:
            if len(piece) == 1:
                raise InvalidInput(f"the tokenizer counts {tokens} tokens in {piece!r}")
            middle = (start + end) // 2
            yield from self._fit(text, start, middle)
            yield from self._fit(text, middle, end)
        elif tokens and piece.strip():
            yield _Span(start, end, tokens)


class _Span(NamedTuple):
    start: int
    end: int
    tokens: int


def chunk(text: str, tokenizer: Any, config: ChunkConfig) -> list[Passage]:
    """The passages of ``text``: `Chunker.split`, the chunker being kept for the next call."""
    return _chunker(tokenizer, config).split(text)


@lru_cache(maxsize=4)
def _chunker(tokenizer: Any, config: ChunkConfig) -> Chunker:
    return Chunker(tokenizer, config)
