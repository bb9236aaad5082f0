"""A passage in other words, by a model that makes sentences of bare words (see ``sketch.py``).

Each sentence is said again by itself, drawn a few times, and kept only if it says what the source
says: all its numbers, names and negations, nearly all its other words, next to nothing new. A
sentence that finds no such wording stays as it was.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

from adapterdb.ingest.augment.generator import Sampling, TextGenerator
from adapterdb.ingest.augment.parse import clean, same_words, words
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.sketch import sketch
from adapterdb.ingest.augment.written import Account, PassageWriting, Piece
from adapterdb.training.sentences import sentences

MIN_WORDS = 4  # of a sketch; less leaves nothing to say in another way
KEPT = 0.85  # of a sentence's words of meaning, that must come again
NEW = 0.15  # more words of meaning than this were not in the source
SENTENCE_TOKENS = 64
TRIES = 4

_NEGATION = re.compile(r"\b(?:no|not|never|nor|neither|none|nobody|nothing|without)\b|n['’]t\b")


def restate(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    plan: AugmentPlan,
    generator: TextGenerator,
    account: Account,
) -> None:
    """Fill in the rewrites of the passages of one document."""
    for piece, own in zip(pieces, written, strict=True):
        said = sentences(piece.passage.text)
        anew: dict[int, str] = {}
        for attempt in range(TRIES):
            open_ = [i for i in range(len(said)) if i not in anew]
            drawn = [sketch(said[i], random.Random(f"{plan.seed}/{attempt}/{i}")) for i in open_]
            orders = [
                (i, bare) for i, bare in zip(open_, drawn, strict=True) if len(bare) >= MIN_WORDS
            ]
            if not orders:
                break
            prompts = [json.dumps({"restate": " ".join(bare)}) for _, bare in orders]
            texts = generator.generate(prompts, Sampling(SENTENCE_TOKENS))
            for (i, _), text in zip(orders, map(clean, texts), strict=True):
                if says_the_same(said[i], text):
                    anew[i] = text
        if anew:
            own.rewrite = " ".join(anew.get(i, sentence) for i, sentence in enumerate(said))
            account.skipped["sentence of a rewrite left as it was"] += len(said) - len(anew)
        else:
            account.lack(piece, "rewrite", f"none of {len(said)} sentences could be said again")


def says_the_same(source: str, said: str) -> bool:
    """Whether ``said`` is another wording of ``source``, as far as words can tell.

    Semantics: the words differ; every number and every capitalised word of ``source`` that is not
    grammar is in ``said``; the share ``KEPT`` of its words of meaning is; at most the share ``NEW``
    of those of ``said`` is new; negations are as many. Case and punctuation don't count.
    """
    rng = random.Random(0)
    mine, theirs = sketch(source, rng), sketch(said, rng)
    if not theirs or same_words(source) == same_words(said):
        return False
    given, found = set(words(source)), set(words(said))
    firm = [w for w in mine if w[0].isupper() or any(c.isdigit() for c in w)]
    bare, new = words(" ".join(mine)), [w for w in words(" ".join(theirs)) if w not in given]
    negations = [len(_NEGATION.findall(text.lower())) for text in (source, said)]
    return (
        all(set(words(word)) <= found for word in firm)
        and sum(word in found for word in bare) >= KEPT * len(bare)
        and len(new) <= NEW * len(theirs)
        and negations[0] == negations[1]
    )
