"""A question set becomes a calibration by which the right mode is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from adapterdb.answers import MODES
from adapterdb.engine.auto import cheapest
from adapterdb.engine.calibrating import Measured, calibration_error, fit
from adapterdb.engine.calibration import RETRIEVAL

N = 200


def measured(f1: np.ndarray, near: np.ndarray, sure: np.ndarray, groups: int = 50) -> Measured:
    """Questions whose similarity is ``near`` and whose answers are as sure as ``sure``."""
    retrieval = np.zeros((N, len(RETRIEVAL)))
    retrieval[:, 0] = near
    confidence = np.stack([sure, np.ones((4, N))], axis=-1)
    cost = np.array([10.0, 40.0, 20.0, 50.0])[:, None] * np.ones((1, N))
    names = [f"d{i % groups}" for i in range(N)]
    return Measured(retrieval, confidence, f1, cost, cost, names, skipped=0)


def two_kinds() -> tuple[np.ndarray, np.ndarray]:
    """Text answers what is near, deltas what is far: F1 of each mode, and similarities."""
    near = np.random.default_rng(0).uniform(0, 1, N)
    text, delta = (near > 0.5).astype(float), (near <= 0.5).astype(float)
    return np.stack([np.zeros(N), text, delta, np.full(N, 0.3)]), near


def test_auto_beats_every_fixed_mode_where_retrieval_tells() -> None:
    """Held out, as it is cross-validated: text for what is near, deltas for what is far."""
    f1, near = two_kinds()
    made = fit(measured(f1, near, np.zeros((4, N))))
    scores = made.facts["f1"]
    assert scores["auto"] > max(scores[mode] for mode in MODES) + 0.3
    assert scores["rag"] == pytest.approx(f1[1].mean())
    known = made.calibration
    for similarity, mode in ((0.9, "rag"), (0.1, "adapter")):
        expected = known.expected([similarity, 0, 0, 0, 0, 0])
        assert cheapest(expected, known.milliseconds, known.tolerance) == mode
    assert made.facts["before"]["rag"]["brier"] < 0.5 * made.facts["before"]["rag"]["brier_of_mean"]
    assert made.facts["before"]["rag"]["ece"] < 0.15


def test_an_answers_own_confidence_is_used() -> None:
    """Where retrieval says nothing and a sure answer is right, unsure ones are asked again."""
    chance = np.random.default_rng(1)
    right = chance.random((4, N)) < np.array([0.0, 0.5, 0.5, 0.0])[:, None]
    sure = np.where(right, -0.1, -2.0)
    made = fit(measured(right.astype(float), chance.random(N), sure))
    scores, auto = made.facts["f1"], made.facts["auto"]
    assert scores["auto"] > max(scores["rag"], scores["adapter"]) + 0.15
    assert 0.3 < auto["asked_twice"] < 0.7
    assert sum(auto["shares"].values()) == pytest.approx(1)
    assert made.facts["after"]["rag"]["brier"] < 0.2 * made.facts["before"]["rag"]["brier"]


def test_what_says_nothing_gives_no_false_hope() -> None:
    """Random features: no better than the best fixed mode, and expectations near the mean."""
    chance = np.random.default_rng(2)
    f1 = chance.random((4, N)) * np.array([0.1, 0.6, 0.3, 0.6])[:, None]
    made = fit(measured(f1, chance.random(N), chance.standard_normal((4, N))))
    assert abs(made.facts["f1"]["auto"] - made.facts["f1"]["rag"]) < 0.06
    for quality in made.facts["before"].values():
        assert quality["brier"] < 1.1 * quality["brier_of_mean"]
        assert quality["ece"] < 0.1


def test_a_mode_that_is_never_right_has_finite_numbers() -> None:
    """And one that always is, too; few documents make no difference."""
    f1 = np.stack([np.zeros(N), np.ones(N), np.zeros(N), np.ones(N)])
    made = fit(measured(f1, np.zeros(N), np.zeros((4, N)), groups=2), seed=3)
    assert all(t.isfinite().all() for t in made.calibration.to_tensors().values())
    expected = made.calibration.expected([0.0] * len(RETRIEVAL))
    assert expected["base"] < 0.05
    assert expected["rag"] > 0.95


def test_questions_of_one_document_are_held_out_together() -> None:
    """What only a document's own questions could teach is not counted as learned."""
    chance = np.random.default_rng(4)
    groups = 20
    of = np.arange(N) % groups
    luck = chance.random(groups)
    f1 = np.tile((luck[of] > 0.5).astype(float), (4, 1))
    made = measured(f1, luck[of] + 10 * of, np.zeros((4, N)), groups)
    fitted = fit(made)
    assert (
        fitted.facts["before"]["rag"]["brier"]
        > 0.8 * fitted.facts["before"]["rag"]["brier_of_mean"]
    )


def test_the_same_measures_make_the_same_calibration() -> None:
    f1, near = two_kinds()
    made = measured(f1, near, np.zeros((4, N)))
    assert fit(made).calibration.fingerprint == fit(made).calibration.fingerprint


def test_calibration_error_is_the_mean_gap_in_tenths() -> None:
    said = np.array([0.05, 0.05, 0.95, 0.95])
    assert calibration_error(said, said) == pytest.approx(0)
    assert calibration_error(said, np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx(0.25)
