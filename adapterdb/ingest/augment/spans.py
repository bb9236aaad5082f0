"""Words of a sentence that could be an answer: names, dates, numbers, noun-like spans.

Cheap and without a model; English. What can't be asked about is sorted out by asking.
"""

from __future__ import annotations

import re

MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}} )?(?:{MONTH})(?: \d{{1,2}}\b(?!\d))?(?:,? \d{{4}})?|\b[12]\d{{3}}\b"
)
_NUMBER = re.compile(
    r"[$£€]?\d[\d,]*(?:\.\d+)?(?:%| percent| per cent| million| billion| thousand| [a-z]{3,})?"
)
_NAME = re.compile(r"(?<!\w)[A-Z][\w’'-]*(?:(?: (?:of|the|and|de|von|van|al|&))* [A-Z][\w’'-]*)*")
_NOUN = re.compile(
    r"\b(?:a|an|the|its|their|his|her|of|by|with|from)\s+((?:[a-z][\w-]+\s){0,2}[a-z][\w-]{3,})\b"
)
_LITTLE = re.compile(
    r"a|an|the|of|by|with|from|in|on|at|to|for|and|or|but|that|this|these|those|his|her|its|their"
    r"|was|were|is|are|be|been|had|has|have|he|she|it|they|we|you|i|as|not",
    re.IGNORECASE,
)
_EDGE = " ,.;:'\"’-"


def answer_spans(sentence: str, limit: int) -> list[str]:
    """Up to ``limit`` spans of ``sentence``, likeliest answers first: dates, numbers, names, nouns.

    None lies within another, none is a word of grammar alone.
    """
    taken: list[tuple[int, int]] = []
    found: list[str] = []
    for kind, pattern in enumerate((_DATE, _NUMBER, _NAME, _NOUN)):
        for match in pattern.finditer(sentence):
            start, end = match.span(1) if kind == 3 else match.span()
            span = sentence[start:end].strip(_EDGE)
            words = span.lower().split()
            opening = (
                kind == 2 and start == 0 and len(words) == 1 and bool(_LITTLE.fullmatch(words[0]))
            )
            if opening or not span or all(map(_LITTLE.fullmatch, words)):
                continue
            if span in found or any(start < b and a < end for a, b in taken):
                continue
            taken.append((start, end))
            found.append(span)
    return found[:limit]
