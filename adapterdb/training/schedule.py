"""Learning rates over a run, and how long the run is: by steps or by minutes.

warm-up     from ``warm_up_from`` to 1 of the peak over the first ``warm_up`` of the run
then        linear to ``floor``, cosine to ``floor``, or constant
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from adapterdb.errors import InvalidInput
from adapterdb.records import check_number

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """The shape of a learning rate over a run (Meta-PG: 10 % from 0.01, then linear to 0).

    Args:
        shape: what follows the warm-up.
        warm_up: share of the run, 0 to below 1.
        warm_up_from: factor of the peak at the very start.
        floor: lowest learning rate after the warm-up, an absolute one; Meta-PG's cosine ends at
            1e-6.
    """

    shape: Literal["linear", "cosine", "constant"] = "linear"
    warm_up: float = 0.1
    warm_up_from: float = 0.01
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_number("schedule: warm_up", self.warm_up, 0.0, 0.99)
        check_number("schedule: warm_up_from", self.warm_up_from, 0.0, 1.0)
        check_number("schedule: floor", self.floor, 0.0, 1e3)

    def lr(self, peak: float, progress: float) -> float:
        """The learning rate at ``progress`` (0 at the first step, 1 after the last)."""
        if progress < self.warm_up:
            return peak * (self.warm_up_from + (1 - self.warm_up_from) * progress / self.warm_up)
        done = min(1.0, (progress - self.warm_up) / (1 - self.warm_up))
        share = {
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "constant": 1.0,
        }[self.shape]
        return max(peak * share, min(self.floor, peak))


class Budget:
    """How far a run is: by steps, or by minutes where some are given.

    Args:
        steps: of the whole run; with minutes it only bounds it, 0 for no bound then.
        minutes: 0, or what the whole run may take; then it ends decayed on any machine, and is
            not repeated exactly.
        spent_s: seconds that earlier pieces of the run took.

    Raises:
        InvalidInput: if neither is given.
    """

    def __init__(self, steps: int, minutes: float = 0.0, spent_s: float = 0.0) -> None:
        if steps < 1 and minutes <= 0:
            raise InvalidInput("a run needs a number of steps or of minutes")
        self.steps, self.minutes = steps, minutes
        self._from = time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds of the run so far, over all its pieces."""
        return time.monotonic() - self._from

    def progress(self, step: int) -> float:
        """Before step number ``step`` (from 0): 0 at the start, 1 when the budget is used up."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = self.spent_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


@dataclass(frozen=True)
class Progress:
    """What a training run reports after a step.

    Args:
        step: steps done.
        share: of the run that is done, 0..1.
        loss: of the step, nats.
        lr: of the step.
        held_out: measures on the set-aside data, where the step was followed by an evaluation.
    """

    step: int
    share: float
    loss: float
    lr: float
    held_out: dict[str, float] | None = None


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of ``items``, evenly spaced and in order: what evaluations look at."""
    n = min(count, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def check_finite(loss: float, step: int) -> None:
    """Stop a run that has diverged.

    Raises:
        InvalidInput: code ``diverged``.
    """
    if not math.isfinite(loss):
        raise InvalidInput(
            f"the loss is {loss} at step {step}: the run has diverged",
            code="diverged",
            hint="use a lower lr, a lower init_alpha, or a lower clip",
        )
