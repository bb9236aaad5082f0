"""Scores computed from the stored vectors and texts themselves.

Used where the index can't answer: passages it doesn't hold yet, few passages left by a filter, an
index that fails. Exact, and linear in the number of passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from adapterdb.store.passages import IndexRows
from adapterdb.store.rows import Vector

WORD = re.compile(r"\w+")
K1, B = 1.2, 0.75  # BM25's usual constants, and Lance's


def nearest(vector: Vector, batches: Iterable[IndexRows], n: int) -> list[tuple[int, float]]:
    """The ``n`` passages with the largest cosine, ids and cosines, best first."""
    best: list[tuple[int, float]] = []
    for rows in batches:
        cosines = rows.vectors @ vector
        top = np.argpartition(-cosines, n - 1)[:n] if n < len(cosines) else range(len(cosines))
        best += [(rows.ids[i], float(cosines[i])) for i in top]
        best = sorted(best, key=_best_first)[:n]
    return best


def match(query: str, batches: Iterable[IndexRows], n: int) -> list[tuple[int, float]]:
    """The ``n`` passages with the largest BM25 score above 0, ids and scores, best first."""
    ids: list[int] = []
    texts: list[str] = []
    for rows in batches:
        ids += rows.ids
        texts += rows.texts
    scores = zip(ids, _bm25(query, texts), strict=True)
    return sorted(((i, score) for i, score in scores if score > 0), key=_best_first)[:n]


def _bm25(query: str, texts: Sequence[str]) -> list[float]:
    words = set(_words(query))
    counts = [Counter(word for word in _words(text)) for text in texts]
    lengths = [count.total() for count in counts]
    mean = max(1.0, sum(lengths) / max(1, len(lengths)))
    found = {word: sum(word in count for count in counts) for word in words}
    weights = {w: math.log(1 + (len(texts) - f + 0.5) / (f + 0.5)) for w, f in found.items()}
    return [
        sum(
            weights[w] * count[w] * (K1 + 1) / (count[w] + K1 * (1 - B + B * length / mean))
            for w in words & count.keys()
        )
        for count, length in zip(counts, lengths, strict=True)
    ]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _best_first(entry: tuple[int, float]) -> tuple[float, int]:
    return -entry[1], entry[0]
