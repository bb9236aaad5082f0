"""Training under a time budget: learning-rate factor, checkpoints, resuming.

Progress is elapsed time over the budget, so a run ends fully decayed whatever the machine's
speed; time spent before a resume counts. A checkpoint is replaced by one rename.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

WARM_UP = 0.04  # of the budget


class Budget:
    """A clock of `minutes` of training, starting with `spent_s` seconds already used."""

    def __init__(self, minutes: float, spent_s: float = 0.0) -> None:
        self.total_s = minutes * 60
        self._from = time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds of training so far, over all pieces of the run."""
        return time.monotonic() - self._from

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the budget is used up."""
        return min(1.0, self.spent_s / self.total_s)

    @property
    def factor(self) -> float:
        """Of the peak learning rate: linear warm-up, then linear to zero."""
        return min(self.progress / WARM_UP + 0.01, 1.0, (1 - self.progress) / (1 - WARM_UP))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none yet."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
