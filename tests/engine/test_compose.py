"""Hits to mixtures."""

from __future__ import annotations

import math

import pytest

from adapterdb.engine.compose import compose
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit


def hit(delta_id: str, similarity: float) -> Hit:
    """A hit of which only id and similarity matter."""
    return Hit(1, delta_id, "lora", "n", "d", 1, "", 0, 1, "x", similarity, 0.0, 1)


HITS = [hit("a", 0.7), hit("b", 0.6), hit("c", 0.1)]


def test_cat_weighs_by_similarity() -> None:
    """Weights are the softmax of similarity over temperature, in the order of the hits."""
    mixture = compose(HITS, "cat", temperature=0.1)
    raw = [math.exp(h.similarity / 0.1) for h in HITS]
    assert [i for i, _ in mixture.parts] == ["a", "b", "c"]
    assert [w for _, w in mixture.parts] == pytest.approx([r / sum(raw) for r in raw])


def test_mean_and_single() -> None:
    """Mean shares equally; single takes the best hit alone."""
    assert [w for _, w in compose(HITS, "mean").parts] == pytest.approx([1 / 3] * 3)
    assert compose(HITS, "single").parts == (("a", 1.0),)


def test_sharp_temperature_does_not_overflow() -> None:
    """The smallest temperature allowed gives all weight to the best hit, not NaN."""
    assert compose(HITS, "cat", temperature=1e-4).parts[0] == ("a", 1.0)


def test_no_hits_give_an_empty_mixture() -> None:
    """Nothing found is a mixture without parts, not an error."""
    assert compose([], "cat").parts == ()


def test_unknown_composition_is_named() -> None:
    """A composition that does not exist is refused with the allowed ones."""
    with pytest.raises(InvalidInput, match="cat, mean, single"):
        compose(HITS, "sum")  # type: ignore[arg-type]
