"""What writes: prompts in, texts out. Knows nothing of what is asked for, or why.

A generator either follows instructions in English (``skill`` "instructions"), or can only write a
question for an answer, and answer it ("questions", see ``asking.py``), and perhaps make a sentence
of bare words too ("sentences", see ``restating.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Skill = Literal["instructions", "questions", "sentences"]


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn.

    Args:
        max_tokens: no text gets longer.
        stop: texts that end one and are not part of it.
        temperature: 0 takes the likeliest token each time.
        seed: of the draw; the same seed need not give the same text on another machine.
    """

    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


class TextGenerator(Protocol):
    """A language model, wherever it runs.

    ``name`` is for people; ``fingerprint`` changes whenever the same prompt could give another
    text; ``at_once`` is how many prompts it likes to be given together.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the class says it

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def skill(self) -> Skill: ...  # noqa: D102

    @property
    def at_once(self) -> int: ...  # noqa: D102

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """One text for each prompt, in order, stripped.

        Raises:
            ModelUnavailable: if it can't be reached, refuses, or answers nonsense.
            Rejected: code ``too_long`` or ``not_recorded``, if this prompt can't be answered.
        """
        ...
