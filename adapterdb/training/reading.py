"""Reading tasks mined from a passage, with no model (AdaptLLM, arXiv 2309.09530, section 3).

A text that says "because", "however" or "in other words" has set an exercise and solved it. Six
kinds are mined: title, words to a sentence, inference between two sentences, cause, paraphrase,
completion. Every answer stands in the text or is its title, but for inference, where it says what
the connective says. Wordings vary by a hash of the text, so that the same passage always gives the
same result. English. The patterns and templates are our own; no word list
and no tokenizer is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from adapterdb.training.sentences import sentences

PER_KIND = 2  # tasks of a kind, at most
MIN_WORDS = 3  # of a statement that is asked about
KEY_WORDS = 3  # of a sentence that is to be written from its words
KEY_LETTERS = 7


class ReadingTask(NamedTuple):
    """A question and its answer.

    Attributes:
        kind: ``title``, ``words``, ``inference``, ``cause``, ``paraphrase`` or ``completion``.
    """

    kind: str
    question: str
    answer: str


def reading_text(title: str, text: str) -> str:
    """The passage followed by the tasks mined from it; the passage alone where there are none."""
    return "\n\n".join([text, *(f"{t.question}\n{t.answer}" for t in reading_tasks(title, text))])


def reading_tasks(title: str, text: str) -> list[ReadingTask]:
    """The tasks mined from a passage, in the order of the kinds, each kind at most twice."""
    said = sentences(text)
    start = hashlib.sha256(f"{title}\0{text}".encode("utf-8", "replace")).digest()[0]
    found: list[ReadingTask] = []
    for kind, mine in _MINERS.items():
        for number, (fields, answer) in enumerate(_first(mine(title, said))):
            wordings = _WORDINGS[kind]
            wording = wordings[(start + number) % len(wordings)]
            found.append(ReadingTask(kind, wording.format(*fields), answer))
    return found


_Mined = tuple[tuple[str, ...], str]  # what the wording quotes, and the answer
_Miner = Callable[[str, Sequence[str]], Iterator[_Mined]]


def _first(mined: Iterator[_Mined]) -> list[_Mined]:
    return [entry for _, entry in zip(range(PER_KIND), mined, strict=False)]


def _title(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    if title.strip() and said:
        yield (), " ".join(title.split())


_KEY = re.compile(rf"\b[a-zA-Z][a-z-]{{{KEY_LETTERS - 1},}}\b")


def _words(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    """Sentences with enough long words, the first word aside; the longest, in their own order."""
    for sentence in said:
        keys = list(dict.fromkeys(_KEY.findall(sentence.partition(" ")[2])))
        if len(keys) >= KEY_WORDS:
            chosen = sorted(keys, key=len, reverse=True)[:KEY_WORDS]
            yield (", ".join(key for key in keys if key in chosen),), sentence


_CONNECTIVES = {
    "The second follows from the first.": "therefore|thus|hence|consequently|as a result"
    "|for this reason|accordingly",
    "The second runs against the first.": "however|in contrast|by contrast|on the contrary"
    "|nevertheless|nonetheless|on the other hand",
    "Neither; the second adds to the first.": "moreover|furthermore|in addition|besides"
    "|similarly|likewise|meanwhile",
}
_OPENERS = {
    answer: re.compile(rf"(?:{words}),?\s+(.+)", re.IGNORECASE)
    for answer, words in _CONNECTIVES.items()
}


def _inference(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    """Two sentences, the second opened by a connective that says how they hang together."""
    for before, sentence in pairwise(said):
        for answer, opener in _OPENERS.items():
            match = opener.fullmatch(sentence)
            if match and _long(before) and _long(match[1]):
                yield (before, _capital(match[1])), answer


_CAUSE = re.compile(r"(.+?),?\s+because\s+(?!of\b)(.+?)[.!]?", re.IGNORECASE)
_CAUSED = re.compile(r"Because\s+(?!of\b)([^,]+),\s+(.+?)[.!]?")
_OWING = re.compile(r"(.+?),?\s+(?:because of|due to|owing to|as a result of)\s+(.+?)[.!]?")


def _cause(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    for sentence in said:
        if match := _CAUSED.fullmatch(sentence):
            effect, cause = match[2], match[1]
        elif match := _CAUSE.fullmatch(sentence) or _OWING.fullmatch(sentence):
            effect, cause = match[1], match[2]
        else:
            continue
        if _long(effect):
            yield (_capital(effect),), _capital(cause)


_ANEW = re.compile(
    r"(?:in other words|that is to say|that is|put differently|put simply|to put it another way"
    r"|in short),\s+(.+)",
    re.IGNORECASE,
)
_INLINE = re.compile(r"(.{20,}?)[,;:]\s+(?:in other words|that is to say|that is),\s+(.+)")


def _paraphrase(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    for i, sentence in enumerate(said):
        if (match := _ANEW.fullmatch(sentence)) and i and _long(said[i - 1]) and _long(match[1]):
            yield (said[i - 1],), _capital(match[1])
        elif (match := _INLINE.fullmatch(sentence)) and _long(match[1]):
            yield (match[1],), _capital(match[2])


def _completion(title: str, said: Sequence[str]) -> Iterator[_Mined]:
    """The last sentence, from the two before it."""
    if len(said) > 2 and _long(said[-1]):
        yield (" ".join(said[-3:-1]),), said[-1]


def _long(text: str) -> bool:
    return len(text.split()) >= MIN_WORDS


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_MINERS: dict[str, _Miner] = {
    "title": _title,
    "words": _words,
    "inference": _inference,
    "cause": _cause,
    "paraphrase": _paraphrase,
    "completion": _completion,
}
_WORDINGS: dict[str, tuple[str, ...]] = {
    "title": (
        "What would be a good heading for this text?",
        "Say in a few words what the passage is about.",
        "Which title fits these lines?",
    ),
    "words": (
        "Which sentence of the passage uses the words {0}?",
        "Make a sentence on this subject out of: {0}.",
        "Say something about the subject that contains {0}.",
    ),
    "inference": (
        'First: "{0}" Second: "{1}" How do the two hang together?',
        'Take it that "{0}" Does it follow that "{1}"?',
        'What has "{1}" to do with "{0}"?',
    ),
    "cause": (
        'What is the reason for this: "{0}"?',
        '"{0}": why is that so?',
        'Name the cause. "{0}"',
    ),
    "paraphrase": (
        'How else could one put this: "{0}"?',
        'Explain in other words: "{0}"',
        '"{0}" What does that mean?',
    ),
    "completion": (
        "How does the passage go on after this: {0}",
        "Continue: {0}",
        "What comes next? {0}",
    ),
}
