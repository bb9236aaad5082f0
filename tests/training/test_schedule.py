"""Learning rates over a run, and when it ends."""

from __future__ import annotations

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.training.schedule import Budget, Schedule, check_finite, spread


def test_warm_up_then_linear() -> None:
    """Over 100 steps: 0.01 of the peak, the peak after 10, half way down at 55, then 0."""
    lrs = [Schedule().lr(4e-4, Budget(100).progress(step)) for step in (0, 5, 10, 55, 99, 100)]
    want = [4e-6, 4e-4 * 0.505, 4e-4, 2e-4, 4e-4 / 90, 0.0]
    assert lrs == pytest.approx(want, abs=1e-12)


def test_cosine_ends_at_its_floor() -> None:
    """Cosine is half the peak in the middle of what follows the warm-up, and never under 1e-6."""
    schedule = Schedule("cosine", warm_up=0.1, floor=1e-6)
    assert schedule.lr(4e-4, 0.55) == pytest.approx(2e-4)
    assert schedule.lr(4e-4, 1.0) == 1e-6


def test_constant_without_warm_up() -> None:
    """No warm-up begins at the peak."""
    assert Schedule("constant", warm_up=0.0).lr(1.0, 0.0) == 1.0


def test_budget_of_minutes_counts_earlier_pieces() -> None:
    """A run of two minutes that has had one begins half way; steps bound it too."""
    assert Budget(0, 2.0, spent_s=60.0).progress(0) == pytest.approx(0.5, abs=0.01)
    assert Budget(10, 2.0).progress(10) == 1.0
    with pytest.raises(InvalidInput):
        Budget(0)


def test_divergence_has_a_code() -> None:
    """A loss that isn't finite ends the run by name."""
    with pytest.raises(InvalidInput, match="step 7") as caught:
        check_finite(float("nan"), 7)
    assert caught.value.code == "diverged"


def test_spread_takes_from_everywhere() -> None:
    """As many as wanted, evenly spaced; all where there are fewer."""
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread("abc", 9) == ["a", "b", "c"]
    assert spread((), 9) == []
