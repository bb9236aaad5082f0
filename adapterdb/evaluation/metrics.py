"""SQuAD's exact match and token F1 of an answer against accepted answers. Knows text only."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """``text`` in lower case without ASCII punctuation, English articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad_em(answer: str, accepted: Sequence[str]) -> float:
    """1.0 if the answer equals an accepted one once both are normalised, else 0.0.

    Args:
        answer: what was said.
        accepted: the right answers; empty means that nothing is right to say.
    """
    said = normalize(answer)
    return float(any(said == normalize(right) for right in accepted or ("",)))


def camels_em(answer: str, accepted: Sequence[str]) -> float:
    """1.0 if the answer begins with an accepted one once both are normalised, else 0.0.

    Prefix exact match as CaMeLS and MAC count it: the answer is cut to the accepted one's length
    before they are compared, so that it is more lenient than ``squad_em`` and no figure of one can
    be held against the other. Their F1 is ``squad_f1``. Arguments as in ``squad_em``.
    """
    said = normalize(answer)
    wanted = [normalize(right) for right in accepted or ("",)]
    return float(any(said[: len(right)] == right if right else not said for right in wanted))


def squad_f1(answer: str, accepted: Sequence[str]) -> float:
    """The best F1, 0..1, of the answer's normalised words and those of an accepted answer.

    Arguments as in ``squad_em``. Where either side has no words, 1.0 if neither has, else 0.0.
    """
    said = normalize(answer).split()
    return max(_f1(said, normalize(right).split()) for right in accepted or ("",))


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))
