"""Sentences of a passage, and whether one can stand alone. English; knows no model."""

from __future__ import annotations

import re

_END = re.compile(
    r"([.!?][\"'”’)\]]*)\s+(?=[\"'“‘(\[]?[A-Z0-9])|\s*\n\s*"  # what closes it, then white space
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Gov|Sen|Rep|No|vs|Jr|Sr|Inc|Ltd|Co|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|[A-Z])|\b(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_DEPENDENT = re.compile(
    r"he|she|it|they|him|her|them|his|hers|its|their|theirs|this|that|these|those|there|here|we|our"
    r"|us|i|my|you|your|such|both|another|others|then|thus|however|but|and|or|so|also|meanwhile"
    r"|therefore|moreover|furthermore|instead|nevertheless|consequently|afterwards",
    re.IGNORECASE,
)
_FIRST_WORD = re.compile(r"[A-Za-z]+")


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, white space made single; a line break also ends one."""
    found: list[str] = []
    ends = [(m.end(1) if m[1] else m.start(), m.end()) for m in _END.finditer(text)]
    starts = [0, *(start for _, start in ends)]
    for start, (end, _) in zip(starts, [*ends, (len(text), 0)], strict=True):
        piece = " ".join(text[start:end].split())
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += " " + piece
        elif piece:
            found.append(piece)
    return found


def stands_alone(sentence: str) -> bool:
    """Whether it does not begin with a pronoun or with a word that leans on what came before."""
    first = _FIRST_WORD.search(sentence)
    return first is not None and _DEPENDENT.fullmatch(first[0]) is None
