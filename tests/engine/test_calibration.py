"""A calibration's numbers: what it reads off retrieval and answers, and how it is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from adapterdb.answers import MODES, Answer, Mixture, Mode
from adapterdb.engine.calibration import (
    CONFIDENCE,
    RETRIEVAL,
    Calibration,
    confidence_features,
    retrieval_features,
)
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit


def hit(rank: int, similarity: float, score: float = 1 / 61) -> Hit:
    text = "one two three"
    return Hit(rank, "0" * 32, "lora", "default", "d", 1, "", 0, 9, text, similarity, score, rank)


def answer(mode: Mode = "rag", *, logprob: float | None = -0.5, tokens: int = 4) -> Answer:
    return Answer("q", "text", mode, (), Mixture(), 10, tokens, {"total": 1.0}, logprob=logprob)


def calibration(seed: int = 0) -> Calibration:
    """Random numbers in a calibration's shapes."""
    torch.manual_seed(seed)
    f, c = len(RETRIEVAL), len(CONFIDENCE)
    return Calibration(
        before=torch.randn(4, f + 1).double(),
        after=torch.randn(4, f + c + 1).double(),
        low=torch.full((f + c,), -1.0).double(),
        high=torch.full((f + c,), 1.0).double(),
        cost=torch.tensor([[16, 50.0], [130, 300.0], [16, 60.0], [130, 310.0]]).double(),
        tolerance=0.02,
    )


def test_retrieval_features_say_how_far_the_best_hit_stands_out() -> None:
    """The margin is over all other hits, used or not; the mean is of those used."""
    hits = [hit(1, 0.5, 2 / 61), hit(2, 0.7), hit(3, 0.6), hit(4, 0.1)]
    found = dict(zip(RETRIEVAL, retrieval_features("What is it?", hits, 2), strict=True))
    assert found == pytest.approx({
        "similarity": 0.7, "margin": 0.1, "mean": 0.6, "score": 2,
        "question_words": math.log(4), "passage_words": math.log(4),
    })  # fmt: skip
    alone = dict(zip(RETRIEVAL, retrieval_features("q", hits[:1], 1), strict=True))
    assert alone["margin"] == pytest.approx(0.5)
    far = [hit(1, 0.5), hit(3, 0.9)]  # the second was not near enough
    assert retrieval_features("q", far, 2)[:3] == pytest.approx([0.5, -0.4, 0.5])


def test_confidence_of_an_empty_answer_is_a_number() -> None:
    assert confidence_features(answer(logprob=-0.5, tokens=3)) == pytest.approx([-0.5, math.log(4)])
    assert confidence_features(answer(logprob=None, tokens=0)) == [0.0, 0.0]


def test_expectations_are_logistic_functions_of_the_features() -> None:
    """Before: of retrieval alone; after: of that and of the answer."""
    known = calibration()
    x = [0.1, -0.2, 0.3, 0.4, -0.5, 0.6]
    said = answer(logprob=-0.3, tokens=1)
    full = torch.tensor([*x, -0.3, math.log(2), 1.0]).double()
    before = 1 / (1 + torch.exp(-(known.before @ torch.tensor([*x, 1.0]).double())))
    after = 1 / (1 + torch.exp(-(known.after @ full)))
    expected = known.expected(x)
    assert list(expected) == list(MODES)
    assert list(expected.values()) == pytest.approx(before.tolist())
    for m, mode in enumerate(MODES):
        assert known.judged(mode, x, said) == pytest.approx(float(after[m]))


def test_what_was_never_seen_counts_as_the_nearest_that_was() -> None:
    """No expectation runs away with a feature beyond the question set."""
    known = calibration()
    far = known.expected([9.0, -9.0, 0, 0, 0, 0])
    assert far == pytest.approx(known.expected([1.0, -1.0, 0, 0, 0, 0]))
    wide = replace(known, high=known.high * 100, low=known.low * 100)
    assert far != pytest.approx(wide.expected([9.0, -9.0, 0, 0, 0, 0]))


def test_it_is_kept_as_plain_tensors() -> None:
    """What is read back says the same and has the same fingerprint; another has another."""
    known = calibration()
    again = Calibration.from_tensors(known.to_tensors())
    assert again.fingerprint == known.fingerprint != calibration(1).fingerprint
    assert again.tolerance == known.tolerance
    assert again.milliseconds == {"base": 50.0, "rag": 300.0, "adapter": 60.0, "hybrid": 310.0}
    assert again.expected([0.1] * 6) == known.expected([0.1] * 6)


@pytest.mark.parametrize("name", ["before", "high", "tolerance"])
def test_one_of_another_version_is_refused(name: str) -> None:
    """A tensor that is missing or of another shape is an error that says what to do."""
    tensors = calibration().to_tensors()
    for wrong in ({n: t for n, t in tensors.items() if n != name}, tensors | {name: torch.ones(3)}):
        with pytest.raises(InvalidInput, match="another version") as caught:
            Calibration.from_tensors(wrong)
        assert caught.value.code == "old_calibration"
