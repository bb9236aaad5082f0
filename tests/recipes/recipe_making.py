"""Modules of the recipe, by name."""

from __future__ import annotations

import importlib
from typing import Any


def module(name: str) -> Any:
    """A module of the recipe; `recipes` is importable inside a test only."""
    return importlib.import_module(f"recipes.mini.{name}")
