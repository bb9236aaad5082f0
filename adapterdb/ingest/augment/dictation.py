"""Asking a generator until what it says can be used, a bounded number of times.

The first try is greedy unless told otherwise; each further one draws with another seed and a
higher temperature. What never becomes usable is reported, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from adapterdb.ingest.augment.generator import Sampling, TextGenerator
from adapterdb.ingest.augment.parse import clean

T = TypeVar("T")
WARMER = 0.3  # how much hotter each try is
HOTTEST = 1.0


@dataclass
class Dictation:
    """Asks one generator.

    Args:
        generator: what is asked.
        retries: further tries for each prompt after the first.
        seed: of the first try; others count up from it.
        retried: how many prompts had to be asked again so far.
    """

    generator: TextGenerator
    retries: int = 3
    seed: int = 0
    retried: int = 0

    def ask(
        self,
        prompts: Sequence[str],
        use: Callable[[int, str], T | None],
        sampling: Sampling,
        *,
        retries: int | None = None,
    ) -> list[T | None]:
        """What ``use(number, text)`` makes of the text for each prompt.

        Args:
            prompts: asked together, then those again for which ``use`` returned None.
            use: turns a text into what is wanted, or None if it can't.
            sampling: of the first try.
            retries: for these prompts, instead of the usual.

        Returns:
            For each prompt what ``use`` returned last: None if no try could be used.
        """
        found: list[T | None] = [None] * len(prompts)
        waiting = list(range(len(prompts)))
        for attempt in range(1 + (self.retries if retries is None else retries)):
            if not waiting:
                break
            if attempt:
                self.retried += len(waiting)
            warmer = min(HOTTEST, sampling.temperature + WARMER * attempt)
            drawn = replace(sampling, seed=self.seed + attempt, temperature=warmer)
            texts = self.generator.generate([prompts[i] for i in waiting], drawn)
            for i, text in zip(waiting, texts, strict=True):
                found[i] = use(i, clean(text))
            waiting = [i for i in waiting if found[i] is None]
        return found
