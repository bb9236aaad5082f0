"""What the tests of the command line share: documents, and reading what was printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

TEXTS = {
    "harbour.md": "---\ntitle: Harbour\nyear: 1874\n---\nThe harbour of Almery opened in 1874.",
    "kettle.txt": "A kettle of copper hangs three metres above the grass.",
    "law/salt.txt": "The salt law of 1901 forbids the sale of wet salt on Sundays.",
}
Run = Callable[..., Result]


def rows(text: str) -> list[dict[str, Any]]:
    """JSON Lines as objects."""
    return [json.loads(line) for line in text.splitlines()]
