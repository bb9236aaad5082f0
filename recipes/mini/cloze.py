"""Questions made of a sentence by rule: a name, date, number or noun of it taken out and asked for.

English. Noisy cloze questions (Lewis et al., 2019, arXiv 1906.04980): some words are dropped, the
question word stands where the answer was or in front. Unlike people's questions there is no end to
them.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from adapterdb.ingest.augment.spans import MONTH, answer_spans

SPANS = 8  # of a sentence, of which one is asked for
ANSWER_WORDS = 6  # at most
AROUND = 5, 16  # words of the sentence that stay in the question
DROPPED = 0.3, 0.08  # of those, short words and others
SHORT = 3  # letters
IN_PLACE = 0.4  # of questions have their question word where the answer was
TITLED = 0.6  # of questions on a sentence that doesn't name its article are told it

_YEAR = re.compile(r"[12]\d{3}")
_MONTH = re.compile(rf"\b(?:{MONTH})\b")
_PLACE = re.compile(r"in|at|from|near|to", re.IGNORECASE)
_PRONOUN = re.compile(r"(?:he|she|it|they|this|his|her|its|their)", re.IGNORECASE)


class Cloze(NamedTuple):
    """A question, its answer, and where in the sentence that begins."""

    question: str
    answer: str
    start: int


def cloze(sentence: str, title: str, rng: random.Random) -> Cloze | None:
    """A question on `sentence`, None where it has nothing to ask for.

    Args:
        sentence: one sentence of a text.
        title: of the text; stands in for a pronoun, or goes before, where the sentence lacks it.
        rng: source of the answer, the words kept, and the form.
    """
    spans = [span for span in answer_spans(sentence, SPANS) if _fits(span, sentence)]
    if not spans:
        return None
    answer = rng.choice(spans)
    start = sentence.index(answer)
    before, after = sentence[:start].split(), sentence[start + len(answer) :].split()
    room = rng.randint(*AROUND)
    left = min(len(before), max(room - len(after), rng.randint(0, room)))
    before, after = before[len(before) - left :], after[: max(0, room - left)]
    asks = _question_word(answer, before[-1] if before else "", rng)
    before = [word for word in before if rng.random() >= DROPPED[len(word) > SHORT]]
    after = [word for word in after if rng.random() >= DROPPED[len(word) > SHORT]]
    if title and title.lower() not in " ".join(before + after).lower() and rng.random() < TITLED:
        if before and _PRONOUN.fullmatch(before[0]):
            before[0] = title
        else:
            before.insert(0, title)
    in_place = rng.random() < IN_PLACE
    words = [*before, asks, *after] if in_place else [asks, *before, *after]
    question = " ".join(words).strip(" ,.;:") + "?"
    if len(before) + len(after) < 2 or answer.lower() in question.lower():
        return None
    return Cloze(question, answer, start)


def _fits(span: str, sentence: str) -> bool:
    """Not long, not the first word alone (which any word may be), a noun of at most two words."""
    count = len(span.split())
    first = sentence.startswith(span) and count == 1
    return not first and count <= (2 if span[0].islower() else ANSWER_WORDS)


def _question_word(answer: str, previous: str, rng: random.Random) -> str:
    if _YEAR.fullmatch(answer):
        return rng.choice(("when", "what year", "in what year"))
    if _MONTH.search(answer):
        return rng.choice(("when", "on what date", "when"))
    if answer[0].isdigit():
        return rng.choice(("how many", "how many", "how much", "what"))
    if answer[0].isupper():
        if _PLACE.fullmatch(previous):
            return rng.choice(("where", "what", "which"))
        return rng.choice(("who", "who", "what", "which", "what"))
    return "what"
