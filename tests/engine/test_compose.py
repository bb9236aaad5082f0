"""Hits to mixtures."""

from __future__ import annotations

import math

import pytest
import torch

from adapterdb.answers import COMPOSITIONS, Composition, Dials, Mixture
from adapterdb.config import SearchConfig
from adapterdb.engine.compose import capped, compose
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


def test_capped_lowers_only_what_is_too_strong() -> None:
    """A weight falls by as much as its delta is over the cap; 0 is no cap."""
    mixture = Mixture((("a", 0.5), ("b", 0.3), ("c", 0.2)), "cat")
    held, over = capped(mixture, {"a": 5.0, "b": 1.25}, 1.25)
    assert over == {"a": 0.25}
    assert held == Mixture((("a", 0.125), ("b", 0.3), ("c", 0.2)), "cat")
    assert capped(mixture, {"a": 5.0}, 0) == (mixture, {})


@pytest.mark.parametrize("scale", [1, 10, 100, 1000])
def test_a_poisoned_delta_can_not_take_over(scale: int) -> None:
    """Its cosine with the merge of five is at most 0.60, however large it is made."""
    for seed in range(50):
        rows = torch.randn(5, 4096, generator=torch.Generator().manual_seed(seed))
        rows[0] *= scale
        norms = rows.norm(dim=1)
        strengths = dict(zip("abcde", (norms / norms.median()).tolist(), strict=True))
        mixture = Mixture(tuple((name, 0.2) for name in "abcde"), "mean")
        held, _ = capped(mixture, strengths, SearchConfig().norm_cap)
        merged = torch.tensor([weight for _, weight in held.parts]) @ rows
        share = float(torch.cosine_similarity(merged, rows[0], dim=0))
        assert share <= 0.60, f"seed {seed}"


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_composition_weighs_as_it_is_defined(composition: Composition) -> None:
    """Scores, equal shares or 1 each by definition; asked otherwise, as asked; gamma in all."""
    hits = [hit("a", 0.9), hit("b", 0.7), hit("c", 0.6)]
    own = [w for _, w in compose(hits, composition).parts]
    if composition == "single":
        assert own == [1.0]
    elif composition in ("gradient", "orthogonal", "ties", "dare_ties", "arrow", "gate"):
        assert own == [1.0] * 3
    elif composition == "mean":
        assert own == [1 / 3] * 3
    else:
        assert own == pytest.approx(torch.tensor([9.0, 7.0, 6.0]).softmax(0).tolist(), rel=1e-5)
    for weights, want in (("uniform", 1 / len(own)), ("sum", 1.0)):
        given = compose(hits, composition, weights=weights, strength=2.5).parts
        assert [w for _, w in given] == pytest.approx([2.5 * want] * len(own))
    assert compose([], composition, weights="uniform").parts == ()


def test_dials_travel_with_the_mixture() -> None:
    """What a composition was asked with is on record, so that an answer can be made again."""
    dials = Dials(density=0.3, seed=7, top_k=1, gate_temperature=15.0)
    assert compose([hit("a", 0.9)], "dare_ties", dials=dials).dials == dials


def test_impossible_dials_are_refused() -> None:
    """Numbers outside their range are named."""
    for dials in ({"density": 0.0}, {"density": 1.5}, {"top_k": 0}, {"gate_temperature": 0.0}):
        with pytest.raises(InvalidInput, match=next(iter(dials))):
            Dials(**dials)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="'most'"):
        compose([], "cat", weights="most")  # type: ignore[arg-type]
