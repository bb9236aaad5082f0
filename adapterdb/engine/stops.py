"""When an answer ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StopRules:
    """When an answer ends.

    Args:
        ids: tokens that end it and are not part of it.
        texts: texts that end it and are not part of it (the token they come in is said).
        to_text: token ids to text.
    """

    ids: frozenset[int]
    texts: tuple[str, ...]
    to_text: Callable[[Sequence[int]], str]

    def text(self, said: Sequence[int]) -> str:
        """The answer in ``said``: stripped, and cut where a stop text begins."""
        cut = self.cut(said)
        return (self.to_text(said) if cut is None else cut).strip()

    def end(self, said: Sequence[int]) -> bool:
        """Whether ``said`` holds a stop text after some words."""
        return bool(self.texts) and self.cut(said) is not None

    def cut(self, said: Sequence[int]) -> str | None:
        """What precedes the first stop text, or None while there is none after some words."""
        text = self.to_text(said).lstrip()
        ends = [text.index(stop) for stop in self.texts if stop in text]
        return text[: min(ends)] if ends else None
