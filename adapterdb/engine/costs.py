"""What acting costs on this machine: fold a mixture into the weights, or add it at every forward?

Three figures are measured once, with the mixture that first asks: milliseconds to fold, and what
the products add to a one-token step and to each prompt token. How long an answer gets is learned
from the answers before it. Slots win for batches of different mixtures and for short answers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch

How = Literal["base", "slots", "fold"]
PROMPT = 32  # tokens of the trial prompt
ROUNDS = 3
WORTH_MEASURING = 64  # new tokens allowed; for shorter answers the trial itself would be the cost
_MEMORY = 0.9  # of the running mean of answer lengths


class Work(NamedTuple):
    """What a request may ask of the model: prompt tokens of all rows, new tokens of each row."""

    prompt_tokens: int
    new_tokens: int


class Costs(NamedTuple):
    """Measured milliseconds.

    Attributes:
        fold: to fold a mixture and to take it out again.
        step: what slots add to a forward of one token.
        token: what slots add for each token of a prompt.
    """

    fold: float
    step: float
    token: float

    def slots(self, prompt_tokens: float, steps: float) -> float:
        """What slots are expected to add to a request."""
        return self.token * prompt_tokens + self.step * steps


class Chooser:
    """Decides how one mixture acts, by costs measured on first need."""

    def __init__(self) -> None:
        self.costs: Costs | None = None
        self._share = 0.5  # of the tokens allowed that answers used, running mean

    def steps(self, work: Work) -> float:
        """Steps an answer is expected to take."""
        return self._share * work.new_tokens

    def observe(self, allowed: int, said: int) -> None:
        """An answer ended after ``said`` of ``allowed`` tokens."""
        self._share = _MEMORY * self._share + (1 - _MEMORY) * said / max(1, allowed)

    def choose(self, work: Work | None, measure: Callable[[], Costs]) -> How:
        """``fold`` where it is expected to be cheaper, else ``slots``.

        Args:
            work: None where nothing is known of it.
            measure: gives the costs; called at most once in this object's life.
        """
        if work is None or work.new_tokens < WORTH_MEASURING:
            return "slots"
        if self.costs is None:
            self.costs = measure()
        slots = self.costs.slots(work.prompt_tokens, self.steps(work))
        return "fold" if self.costs.fold < slots else "slots"


Acting = Callable[[], AbstractContextManager[Any]]


def measure(base: Acting, slots: Acting, fold: Acting, device: torch.device) -> Costs:
    """The costs of one mixture, from a few short forwards.

    Args:
        base, slots, fold: contexts that give the model acting so.
    """

    def forward(model: Any, tokens: int) -> float:
        ids = torch.zeros(1, tokens, dtype=torch.int64, device=device)
        began = _now(device)
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
        return _now(device) - began

    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        began = _now(device)
        with fold():
            pass
        times.setdefault("fold", []).append(_now(device) - began)
        for name, acting in (("base", base), ("slots", slots)):
            with acting() as model:
                for tokens in (1, PROMPT):
                    times.setdefault(f"{name} {tokens}", []).append(forward(model, tokens))
    ms = {name: 1e3 * statistics.median(found) for name, found in times.items()}
    step = max(0.0, ms["slots 1"] - ms["base 1"])
    prompt = max(0.0, ms[f"slots {PROMPT}"] - ms[f"base {PROMPT}"])
    return Costs(ms["fold"], step, prompt / PROMPT)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
