"""Hits to a mixture: which deltas act, and how strongly. Pure functions.

    cat     every hit, weights softmax(similarity / temperature), summing to 1
    mean    every hit, weight 1 / n
    single  the best hit alone, weight 1

For LoRA deltas the mixture is the weighted sum of the deltas (rank concatenation, exact); for
gradient deltas it is theta* - alpha * sum_i w_i g_i (ReGrad, arXiv 2606.15734).

Neither bounds what one delta of a huge norm does to the sum, so weights are ``capped`` afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from adapterdb.answers import COMPOSITIONS, Composition, Mixture
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit


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


def capped(
    mixture: Mixture, strengths: Mapping[str, float], cap: float
) -> tuple[Mixture, dict[str, float]]:
    """``mixture`` with no delta acting as more than ``cap`` times a typical one.

    A weight is lowered so far that the delta acts with its old weight and the norm allowed. The
    others don't make up for it.

    Args:
        strengths: norm of a delta, as a multiple of what is typical around it; others aren't held.
        cap: 0 for none.

    Returns:
        The mixture, and by which factor each weight that changed was lowered.
    """
    over = {i: cap / strengths[i] for i, _ in mixture.parts if cap and strengths.get(i, 0) > cap}
    parts = tuple((i, weight * over.get(i, 1.0)) for i, weight in mixture.parts)
    return Mixture(parts, mixture.composition), over
