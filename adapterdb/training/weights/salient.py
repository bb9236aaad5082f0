"""Salient spans of English text: names and dates, as salient span masking picks them.

The default is a small set of rules over capitals and digits that needs no model:

    names   runs of capitalised words, joined over "of", "the", "de", "van" ...; a sentence's first
            word alone only if it is capitalised elsewhere too; acronyms
    dates   years, decades, centuries, months with day or year, weekdays, ISO dates

As in CaMeLS (arXiv 2305.15076) numbers that are none of these are left out: times, percentages,
money, quantities, ordinals, cardinals. A spaCy pipeline that is installed can be named instead.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator

from adapterdb.errors import InvalidInput

Span = tuple[int, int]
Finder = Callable[[str], list[Span]]

VERSION = 1  # of the rules: counts up whenever they find other spans
IGNORED = frozenset({"TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"})
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan\.|Feb\.|Mar\.|Apr\.|Aug\.|Sept?\.|Oct\.|Nov\.|Dec\.)"
)
_DAY = r"(?:[12]?\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_UNIT = (
    r"\s*(?:%|per\s?cent|percent|(?:kilo|centi|milli)?(?:met(?:re|er)|gram)s?|km|cm|mm|m|kg|g|miles?"
    r"|feet|ft|inch(?:es)?|acres?|hectares?|tons?|tonnes?|pounds?|dollars?|euros?|yen|people|seats?"
    r"|years?|days?|hours?|minutes?|seconds?|times|million|billion|thousand|hundred)\b"
)
_DATES = re.compile(
    rf"\b{_MONTH}\s+{_DAY}(?:\s*[-–]\s*{_DAY})?(?:,?\s+{_YEAR})?\b"
    rf"|\b{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?\b"
    rf"|\b{_MONTH},?\s+{_YEAR}\b"
    r"|\b\d{4}-\d{2}-\d{2}\b"
    rf"|(?<![\d.,$€£¥])\b{_YEAR}s?\b(?![.,:]?\d)(?!{_UNIT})"
    r"(?!\s+(?!(?:was|is|has|its|this|as)\b)[a-z]+s\b)"
    r"|\b(?:(?:early|mid|late)[ -])?(?:the\s+)?(?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth"
    r"|fifth|sixth|seventh|eighth|ninth|\w+teenth|twentieth)[ -]centur(?:y|ies)(?:\s+BCE?)?\b"
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    r"|\b\d+\s+(?:BCE?|CE|AD)\b|\bAD\s+\d+\b",
)
_WORD = re.compile(r"[^\W_](?:[^\W_]|[.&'’-](?=[^\W_]))*")
_JOINING = frozenset(
    re.findall(r"\S+", "of the de del della der den van von la le las los du di da al el bin ibn &")
)
_ENDINGS = re.compile(r"[.!?:;][\"'”’)\]]*\s*$|^[\"'“‘(\[\s]*$|\n\s*[\"'“‘(\[]*$")
_INITIAL = re.compile(r"\b(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Prof|Gen|Col|Sr|Jr|Rev|Lt|Capt)\.\s*$")
# words that are written with a capital where they name nothing
_FUNCTION = frozenset(
    re.findall(
        r"\S+",
        """
        a about above according after afterwards again against all almost along already also
        although among an and another any are as at away back be because been before behind
        being below besides between both but by can could despite did do does due during each
        either else even every except few finally first following for from further furthermore
        had has have he hence her here his how however i if in including indeed initially inside
        instead into is it its itself last later least less like likewise many may me meanwhile
        more moreover most much must my near nearly neither never nevertheless next no nor not
        nothing now of off often on once one only onto or originally other others our out
        outside over own per perhaps rather recently second several shall she should similarly
        since so some someone sometimes soon still such than that the their them then there
        thereafter therefore these they third this those though three through throughout thus to
        today together too two toward towards under unlike until up upon us usually was we were
        what when where whereas whether which while who whole whom whose why will with within
        without would yet you your four five six seven eight nine ten eleven twelve twenty
        thirty hundred thousand million billion fourth fifth sixth seventh eighth ninth tenth am
        pm a.m p.m
        """,
    )
)


def rule_spans(text: str) -> list[Span]:
    """The names and dates in ``text`` as character spans, sorted, not overlapping."""
    dates = [found.span() for found in _DATES.finditer(text)]
    names = [span for span in _names(text) if not any(_meet(span, date) for date in dates)]
    return sorted([*dates, *names])


def spacy_finder(pipeline: str) -> Finder:
    """The entities that the installed spaCy pipeline of this name finds, numbers left out.

    Raises:
        InvalidInput: if spaCy or the pipeline is not installed, or it finds no entities.
    """
    try:
        spacy = importlib.import_module("spacy")
        loaded = spacy.load(pipeline)
    except (ImportError, OSError) as error:
        raise InvalidInput(
            f"spaCy pipeline {pipeline!r} can't be loaded: {error}",
            hint="install spaCy and the pipeline, or name none: rules are used then",
        ) from error
    if not {"ner", "entity_ruler"} & set(loaded.pipe_names):
        raise InvalidInput(f"spaCy pipeline {pipeline!r} finds no entities: {loaded.pipe_names}")

    def find(text: str) -> list[Span]:
        found = loaded(text).ents
        return [(e.start_char, e.end_char) for e in found if e.label_ not in IGNORED]

    return find


def _names(text: str) -> Iterator[Span]:
    words = list(_WORD.finditer(text))
    inside = {
        word.group() for word in words if _is_capital(word) and not _starts_sentence(text, word)
    }
    at = 0
    while at < len(words):
        run = _run(text, words, at)
        if not run:
            at += 1
            continue
        at = words.index(run[-1], at) + 1
        if _starts_sentence(text, run[0]):
            if run[0].group().lower() in _FUNCTION:
                run = run[1:]
            elif len(run) == 1 and run[0].group() not in inside and not _is_acronym(run[0]):
                continue
        while run and run[0].group().lower() in _JOINING:
            run = run[1:]
        if run:
            yield run[0].start(), run[-1].end()


def _run(text: str, words: list[re.Match[str]], first: int) -> list[re.Match[str]]:
    """Capitalised words from ``first`` on, with joining words between them."""
    if not _is_capital(words[first]):
        return []
    last = first
    for at in range(first + 1, len(words)):
        gap = text[words[at - 1].end() : words[at].start()]
        if gap.strip(" ") and not (gap == ". " and _INITIAL.search(text[: words[at].start()])):
            break
        if _is_capital(words[at]):
            last = at
        elif words[at].group() not in _JOINING:
            break
    return words[first : last + 1]


def _is_capital(word: re.Match[str]) -> bool:
    said = word.group()
    if said.lower() in _FUNCTION and not _starts_sentence(word.string, word):
        return said not in ("I", "AM", "PM") and said[0].isupper() and len(said) > 1
    return said[0].isupper() or (len(said) > 1 and said[0].islower() and said[1:].isupper())


def _is_acronym(word: re.Match[str]) -> bool:
    said = word.group()
    return len(said) > 1 and said.isupper() and said.lower() not in _FUNCTION


def _starts_sentence(text: str, word: re.Match[str]) -> bool:
    before = text[max(0, word.start() - 8) : word.start()]
    return _INITIAL.search(before) is None and _ENDINGS.search(before) is not None


def _meet(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
