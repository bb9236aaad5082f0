"""Flipped bits, a few of each kind: all of T11 is in benchmarks."""

from __future__ import annotations

import random
from pathlib import Path

import bit_flips
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two homes, and what they say while intact."""
    folder = tmp_path_factory.mktemp("flips")
    bit_flips.make_homes(folder)
    bit_flips.keep_clean(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "flips"), [("weights", 12), ("index", 6), ("catalog", 8), ("wal", 6)]
)
def test_a_flipped_bit_is_found_or_harmless(base: Path, kind: str, flips: int) -> None:
    """No flip changes what is used or answered without being noticed."""
    source = random.Random(5)
    for i in range(flips):
        home = bit_flips.copied(base, kind)
        bit_flips.flip(home, kind, source)
        assert bit_flips.look((str(home), kind))[1] == "", f"seed 5, flip {i}"


def test_the_oracle_can_fail(base: Path) -> None:
    """A text that was altered before it was summed is noticed by what the test knows itself."""
    clean = {"texts": {"a": "one"}, "passages": {"a": ["one"]}, "hits": [], "fields": {"a": []}}
    altered = clean | {"texts": {"a": "0ne"}}
    assert bit_flips.compared(altered, clean)[0] == "wrong text"
    assert bit_flips.compared(clean, clean) == ("same", "")
