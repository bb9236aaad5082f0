"""Hits to a mixture: which deltas act, and how strongly. Pure functions.

    cat     every hit, weights softmax(similarity / temperature), summing to 1
    mean    every hit, weight 1 / n
    single  the best hit alone, weight 1

For LoRA deltas the mixture is the weighted sum of the deltas (rank concatenation, exact); for
gradient deltas it is theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapterdb.errors import InvalidInput
from adapterdb.records import COMPOSITIONS, Composition, Hit, Mixture


def compose(
    hits: Sequence[Hit], composition: Composition = "cat", *, temperature: float = 0.1
) -> Mixture:
    """The mixture of ``hits``, best first; empty for no hits.

    Args:
        hits: best first, as ``search`` returns them.
        composition: ``cat``, ``mean`` or ``single``.
        temperature: of the softmax over cosine similarities in ``cat``; smaller is sharper.
    """
    if composition not in COMPOSITIONS:
        raise InvalidInput(f"composition {composition!r} is not one of {', '.join(COMPOSITIONS)}")
    if not hits:
        return Mixture((), composition)
    if composition == "single":
        return Mixture(((hits[0].delta_id, 1.0),), composition)
    if composition == "mean":
        return Mixture(tuple((hit.delta_id, 1 / len(hits)) for hit in hits), composition)
    best = max(hit.similarity for hit in hits)
    raw = [math.exp((hit.similarity - best) / temperature) for hit in hits]
    return Mixture(
        tuple((hit.delta_id, r / sum(raw)) for hit, r in zip(hits, raw, strict=True)), composition
    )
