"""Adapters from strangers, in process: all of T12 is in benchmarks."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import delta_fuzz
import hostile_deltas as hostile
import pytest

from adapterdb.errors import NotFound
from adapterdb.peft_config import parse_peft_config
from adapterdb.peft_format import read_peft

SLOW = ("100 MB of blanks", "600,000 tensors")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A PEFT folder that is as it should be."""
    delta_fuzz.make_folder(tmp_path / "good")
    return tmp_path / "good"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [n for n in hostile.crafted(Path()) if n not in SLOW])
def test_crafted_folder_is_refused_or_what_peft_loads(good: Path, name: str) -> None:
    """Each crafted folder has its code, and no pickle in it is ever run."""
    canary = good.parent / "canary"
    craft, allowed = hostile.crafted(canary)[name]
    craft(good)
    assert delta_fuzz.read_folder(str(good)) == allowed
    assert not canary.exists()


def test_mutated_folders_are_refused_or_what_peft_loads(good: Path) -> None:
    """One random change never makes a row that peft would not make of the same folder."""
    source = random.Random(8)
    found = []
    for i in range(250):
        folder = good.parent / "mutant"
        shutil.copytree(good, folder)
        kind = hostile.mutate(folder, source)
        found.append(delta_fuzz.read_folder(str(folder)))
        assert " " not in found[-1], f"seed 8, mutant {i} ({kind}): {found[-1]}"
        shutil.rmtree(folder)
    assert len(set(found)) > 4


def test_path_that_can_be_none_is_not_found() -> None:
    """A path with a NUL in it holds nothing."""
    with pytest.raises(NotFound):
        read_peft(Path("a\0b"), delta_fuzz.LAYOUT)


@pytest.mark.parametrize(
    ("targets", "layers", "module", "adapted"),
    [
        ('["up"]', "null", "m.layers.3.up", True),
        ('["up"]', "null", "m.layers.3.pickup", False),
        ('["m.layers.3.up"]', "[9]", "m.layers.3.up", True),
        ('["up"]', "[3, 5]", "m.layers.3.up", True),
        ('["up"]', "4", "m.layers.3.up", False),
        ('["up"]', "[0]", "up", True),
        ('"all-linear"', "null", "anything", True),
    ],
)
def test_config_adapts_what_peft_would_adapt(
    targets: str, layers: str, module: str, adapted: bool
) -> None:
    """Modules are chosen by name or ending, and by the first number in their path."""
    text = (
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4,'
        f' "target_modules": {targets}, "layers_to_transform": {layers}}}'
    )
    assert parse_peft_config(text.encode(), "config").adapts(module) is adapted


def test_stored_files_that_are_mutated_are_never_used(tmp_path: Path) -> None:
    """A damaged weight file is found by check, and no row of it is read otherwise than written."""
    home, source = delta_fuzz.make_home(tmp_path), random.Random(3)
    for _ in range(12):
        mutated = tmp_path / "mutated"
        shutil.copytree(home, mutated)
        delta_fuzz.mutate_stored(mutated, source, delta_fuzz.STORED)
        assert delta_fuzz.read_store(str(mutated)) in ("corrupt", "intact"), "seed 3"
        shutil.rmtree(mutated)
