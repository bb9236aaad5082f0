"""Hits to a mixture: which deltas act, how strongly, and how they are put together. Pure functions.

Weights: ``score``    softmax(similarity / temperature), summing to 1
         ``uniform``  1 / n
         ``sum``      1 each

Compositions:
    cat         the weighted sum (rank concatenation, exact; of gradients one step)
    mean        cat with uniform weights
    single      the best hit alone
    gradient    theta* - gamma * alpha * sum of gradients (ReGrad, arXiv 2606.15734); weights sum
    linear, svd, ties, dare_linear, dare_ties, magnitude_prune, orthogonal
                one merged delta of the layout's rank, see ``merge``
    arrow, gate token by token, see ``kernels.gated``; weights are strengths, 1 each

``strength`` (gamma) multiplies all weights. Neither bounds what one delta of a huge norm does to
the sum, so weights are ``capped`` afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapterdb.answers import WEIGHTINGS, Composition, Dials, Mixture, Weighting
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit

_SUM: Weighting = "sum"
# what a composition's own definition asks for; score for all others
_WEIGHTING: Mapping[str, Weighting] = {
    "mean": "uniform",
    "single": _SUM,
    "gradient": _SUM,  # as ReGrad does
    "orthogonal": _SUM,  # what deltas share counts once already
    "ties": _SUM,  # its entries are means of those that agree
    "dare_ties": _SUM,
    "arrow": _SUM,
    "gate": _SUM,
}


def compose(
    hits: Sequence[Hit],
    composition: Composition = "cat",
    *,
    temperature: float = 0.1,
    weights: Weighting | None = None,
    strength: float = 1.0,
    dials: Dials | None = None,
) -> Mixture:
    """The mixture of ``hits``, best first; empty for no hits.

    Args:
        hits: best first, as ``search`` returns them.
        temperature: of the softmax over cosine similarities in ``score``; smaller is sharper.
        weights: how hits are weighed; None: as the composition is defined.
        strength: gamma, multiplies every weight.
        dials: kept in the mixture.
    """
    if weights is not None and weights not in WEIGHTINGS:
        raise InvalidInput(f"weights {weights!r} is not one of {', '.join(WEIGHTINGS)}")
    chosen = hits[:1] if composition == "single" else hits
    how = weights or _WEIGHTING.get(composition, "score")
    if not hits:
        return Mixture((), composition, dials or Dials())
    numbers = _weights([hit.similarity for hit in chosen], how, temperature)
    parts = tuple((h.delta_id, strength * w) for h, w in zip(chosen, numbers, strict=True))
    return Mixture(parts, composition, dials or Dials())


def _weights(similarities: Sequence[float], how: Weighting, temperature: float) -> list[float]:
    if how == "sum":
        return [1.0] * len(similarities)
    if how == "uniform":
        return [1 / len(similarities)] * len(similarities)
    best = max(similarities, default=0.0)
    raw = [math.exp((similarity - best) / temperature) for similarity in similarities]
    return [r / sum(raw) for r in raw]


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
    return replace(mixture, parts=parts), over
