"""Intervals of means, for benchmarks: scipy's bootstrap, 10,000 draws, the same at every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

DRAWS = 10_000


def interval(values: ArrayLike) -> tuple[float, float, float]:
    """The mean of at least one number, and the ends of its 95 % percentile interval."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) < 2 or not np.ptp(numbers):
        return mean, mean, mean
    found = bootstrap(
        (numbers,), np.mean, method="percentile", n_resamples=DRAWS, rng=np.random.default_rng(0)
    ).confidence_interval
    return mean, float(found.low), float(found.high)
