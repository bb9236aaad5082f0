"""The recipes are no part of the package: made importable here, and kept to one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    """Make `recipes` importable, and compute on one thread."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
