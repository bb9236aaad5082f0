"""How well the shipped model writes: questions for answers, and sentences from bare words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from adapterdb.ingest.augment.asking import FOUND_AGAIN
from adapterdb.ingest.augment.restating import MIN_WORDS, SENTENCE_TOKENS, TRIES, says_the_same
from adapterdb.ingest.augment.sketch import sketch
from adapterdb.training.sentences import sentences
from recipes.mini.adapted import Adapted
from recipes.mini.prompts import Piece
from recipes.mini.scoring import score


def asking(
    model: Adapted, answers: Sequence[str], pieces: Sequence[Piece], batch: int
) -> dict[str, float]:
    """Questions written for answers, read by the same model with the same passage.

    Args:
        model: writes and reads; no delta.
        answers: one for each passage, a span of it.
        pieces: the passages.
        batch: prompts at once.

    Returns:
        Percent: `found_again`, questions that give the answer back (F1 of at least 0.5) and don't
        hold it; `f1` of what they give; `holds_answer`.
    """
    room = 32
    prompts = [
        model.prompts.ask(answer, piece.title, piece.text, room)
        for answer, piece in zip(answers, pieces, strict=True)
    ]
    asked = model.answer(prompts, None, batch, room)
    shown = [model.prompts.context(q, [p], room)[0] for q, p in zip(asked, pieces, strict=True)]
    given = model.answer(shown, None, batch)
    f1 = [score(told, [answer]).f1 for told, answer in zip(given, answers, strict=True)]
    holds = [a.lower() in q.lower() for q, a in zip(asked, answers, strict=True)]
    again = [f >= FOUND_AGAIN and not held for f, held in zip(f1, holds, strict=True)]
    return {
        "questions": len(answers),
        "found_again": _percent(again),
        "f1": _percent(f1),
        "holds_answer": _percent(holds),
    }


def restating(model: Adapted, texts: Sequence[str], batch: int, seed: int) -> dict[str, float]:
    """Sentences said again from their bare words.

    Returns:
        Percent of `sentences`: `once` and `restated`, those another wording of which was found in
        one and in `TRIES` tries, by the rule that `adb augment` stores them by.
    """
    every = [s for text in texts for s in sentences(text)]
    found = [s for s in every if len(sketch(s, random.Random(0))) >= MIN_WORDS]
    done = [False] * len(found)
    once = 0.0
    for attempt in range(TRIES):
        open_ = [i for i, good in enumerate(done) if not good]
        bare = [sketch(found[i], random.Random(f"{seed}/{attempt}/{i}")) for i in open_]
        prompts = [model.prompts.restate(" ".join(words), SENTENCE_TOKENS) for words in bare]
        for i, text in zip(open_, model.answer(prompts, None, batch, SENTENCE_TOKENS), strict=True):
            done[i] = says_the_same(found[i], text)
        if attempt == 0:
            once = _percent(done)
    return {"sentences": len(found), "once": once, "restated": _percent(done)}


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / max(1, len(values)), 1)
