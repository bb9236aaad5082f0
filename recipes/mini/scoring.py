"""SQuAD answer scores: normalised exact match and token F1, maximum over the gold answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


class Score(NamedTuple):
    """Both in 0..1."""

    f1: float
    em: float


def normalize(text: str) -> str:
    """Lower-case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score(prediction: str, golds: Sequence[str]) -> Score:
    """Best F1 and best exact match of a prediction over the gold answers."""
    return Score(
        max(_f1(prediction, gold) for gold in golds),
        max(float(normalize(prediction) == normalize(gold)) for gold in golds),
    )


def _f1(prediction: str, gold: str) -> float:
    mine, theirs = normalize(prediction).split(), normalize(gold).split()
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))
