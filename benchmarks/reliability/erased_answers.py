"""The answers part of T16: what is asked about other documents is answered with the same words.

A home with the shipped model takes in a few documents of ``examples/corpus`` and forgets two. Where
neither of them was among the best hits, the answer is the same string after as before; and every
answer is that of a home which never held them.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from adapterdb import AdapterDB
from adapterdb.answers import Answer, Mode

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENTS, FORGOTTEN, QUESTIONS, HITS = 10, 2, 16, 3
MODES: tuple[Mode, ...] = ("adapter", "hybrid")


def _ask(database: AdapterDB, questions: list[str]) -> list[Answer]:
    return [answer for mode in MODES for answer in database.ask_many(questions, mode=mode)]


def _home(folder: Path, names: list[str]) -> AdapterDB:
    database = AdapterDB.create(folder)
    database.ingest([EXAMPLES / "corpus" / f"{name}.md" for name in names])
    return database


def compare_answers(folder: Path, seed: int) -> tuple[Counter[str], list[str]]:
    """Ask before and after; counts, and answers that changed."""
    chance = random.Random(seed)
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [entry for entry in map(json.loads, lines) if len(entry["supporting"]) == 1]
    names = sorted({entry["supporting"][0] for entry in asked})
    names = chance.sample(names, DOCUMENTS)
    gone, kept = names[:FORGOTTEN], names[FORGOTTEN:]
    questions = [entry["question"] for entry in asked if entry["supporting"][0] in kept]
    questions = questions[:QUESTIONS]
    with _home(folder / "home", names) as database:
        stored = {d.name.removesuffix(".md"): d.name for d in database.list()}
        forgotten = {stored[name] for name in gone}
        before = _ask(database, questions)
        leaning = {
            question
            for question in questions
            if forgotten & {hit.document for hit in database.search(question, k=HITS)}
        }
        database.forget(sorted(forgotten))
        after = _ask(database, questions)
    with _home(folder / "never", kept) as database:
        never = _ask(database, questions)
    counts, wrong = Counter[str](), []
    for old, new, other in zip(before, after, never, strict=True):
        counts["answers"] += 1
        if {source.document for source in new.sources} & forgotten:
            wrong.append(f"{new.question!r} is answered from a forgotten document")
        if new.text != other.text:
            wrong.append(f"{new.mode} {new.question!r}: {new.text!r}, never held: {other.text!r}")
        if old.question in leaning:
            counts["answers to questions that found the forgotten"] += 1
        elif new.text != old.text:
            wrong.append(f"{new.mode} {new.question!r}: {new.text!r}, before: {old.text!r}")
        else:
            counts["answers unchanged"] += 1
    return counts, wrong
