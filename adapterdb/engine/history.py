"""What answering has cost so far: running means by mode, from which the next answer is estimated.

Search and load are taken to cost the same each time, generating to grow with the tokens that go
through the model. Lives in memory with the runtime; nothing of it is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from adapterdb.answers import Mode
from adapterdb.engine.runtime import Acted

KEEP = 0.8  # of the mean before, when an answer is added


class History:
    """Running means of one process. Thread-safe."""

    def __init__(self) -> None:
        self._means: dict[tuple[Mode, str], float] = {}
        self._lock = threading.Lock()

    def estimate(self, mode: Mode, tokens_in: int) -> dict[str, float]:
        """What an answer is expected to take; empty before the first of its mode.

        Args:
            tokens_in: of its prompt.

        Returns:
            ``search``, ``load``, ``generate`` and ``total`` in milliseconds; ``tokens_in`` and
            ``tokens_out`` of answers so far.
        """
        with self._lock:
            means = {name: value for (of, name), value in self._means.items() if of == mode}
        if not means:
            return {}
        generate = means.pop("per_token") * (tokens_in + means["tokens_out"])
        found = {**means, "generate": generate}
        found["total"] = found["search"] + found["load"] + generate
        return {name: round(value, 3) for name, value in found.items()}

    def observe(
        self, mode: Mode, tokens_in: int, tokens_out: int, timings_ms: Mapping[str, float]
    ) -> None:
        """Add an answer."""
        new: dict[str, Any] = {
            "search": timings_ms.get("search", 0.0),
            "load": timings_ms.get("load", 0.0),
            "per_token": timings_ms.get("generate", 0.0) / max(1, tokens_in + tokens_out),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
        }
        with self._lock:
            for name, value in new.items():
                before = self._means.get((mode, name), value)
                self._means[mode, name] = KEEP * before + (1 - KEEP) * value


def ran(
    asked: Mapping[str, Any], deltas: int, batch: int, acted: Acted, expected: Mapping[str, float]
) -> dict[str, Any]:
    """What an answer's record says of how it was made, as JSON-able data.

    Args:
        asked: ``namespace``, ``where``, ``as_of``, ``k``, and how many hits were ``found``, where
            something was searched; how many of its ``deltas`` had to be ``read``.
        batch: questions answered together.
        acted: how the runtime acted for that batch.
        expected: see ``History.estimate``, taken before.
    """
    costs = None if acted.costs is None else acted.costs._asdict()
    return {
        **asked,
        "resident": deltas - int(asked.get("read", 0)),
        "batch": batch,
        "acted": acted.how,
        "costs_ms": {name: round(ms, 4) for name, ms in (costs or {}).items()},
        "expected": dict(expected),
    }
