"""The bare words of a sentence, from which a model that follows no instructions says it anew.

English. What carries meaning is kept, each word once more or less in its place; words of grammar
go, so that the model must find a frame of its own (sketch-based generation: Guo et al. 2022,
arXiv 2211.10330).
"""

from __future__ import annotations

import random
import re

_WORD = re.compile(r"\w(?:[\w'’.,&/-]*\w)?|[$£€%]")
# Negations and number words are not here: they are what is said.
_GRAMMAR = re.compile(
    r"a|an|the|this|that|these|those|it|its|he|him|his|she|her|they|them|their|we|us|our|you"
    r"|your|i|me|my|who|whom|whose|which|what|where|when|there|here|and|or|but|if|as|than|then"
    r"|so|because|while|although|though|since|until|of|in|on|at|by|for|with|from|to|into|onto"
    r"|over|under|about|after|before|between|through|during|against|among|upon|within|across"
    r"|along|around|behind|beyond|near|off|out|up|down|is|are|was|were|be|been|being|am|has"
    r"|have|had|having|do|does|did|can|could|will|would|shall|should|may|might|must|also"
    r"|however|thus|therefore|such|very|more|most|some|any|each|other|another|both|only|just"
    r"|even|still|often|well|much|many",
    re.IGNORECASE,
)
DISORDER = 3.0  # words may change places with others this near


def sketch(sentence: str, rng: random.Random) -> list[str]:
    """The words of `sentence` that are not grammar, in a slightly changed order.

    Args:
        sentence: any text; empty gives an empty list.
        rng: source of the order.
    """
    kept = [word for word in _WORD.findall(sentence) if not _GRAMMAR.fullmatch(word)]
    places = [i + rng.uniform(0, DISORDER) for i in range(len(kept))]
    return [word for _, word in sorted(zip(places, kept, strict=True), key=lambda pair: pair[0])]
