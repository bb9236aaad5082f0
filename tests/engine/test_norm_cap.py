"""A delta of a huge norm among ordinary ones, from import to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, LoadOptions, LoraSpec
from adapterdb.errors import Mismatch


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[AdapterDB]:
    """A home without documents."""
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32")
    options = LoadOptions(dtype="float32")
    with AdapterDB.create(tmp_path / "home", config, options=options) as database:
        yield database


def put(db: AdapterDB, name: str, seed: int, scale: float = 1.0) -> str:
    """A LoRA of our own whose B is scaled; its id."""
    layout = db._home.layout
    row = 0.1 * torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    for i in range(len(layout.sites)):
        layout.b(row, i).mul_(scale)
    return db.put(row, text=f"The keeper of {name} counts the boats.", name=name).id


def test_a_delta_too_strong_is_held_back_and_named(db: AdapterDB) -> None:
    """Four ordinary deltas keep their weights; the fifth acts with at most the norm allowed."""
    honest = [put(db, f"house {i}", i) for i in range(4)]
    poison = put(db, "tower", 9, scale=1000.0)
    question = "Who counts the boats?"
    answer = db.ask(question, mode="adapter", k=5, compose="mean", min_similarity=-1.0)
    weights = dict(answer.mixture.parts)
    norms = {i: db.delta(i).norm for i in weights}
    assert [weights[i] for i in honest] == [0.2] * 4
    usual = sorted(norms.values())[2]
    assert norms[poison] > 100 * usual
    assert weights[poison] * norms[poison] == pytest.approx(0.2 * 1.15 * usual, rel=0.05)
    assert answer.note.startswith(f"held back because unusually strong: {poison} (")
    assert {s.delta_id: s.weight for s in answer.sources} == weights


def test_a_mixture_of_the_callers_own_acts_as_written(db: AdapterDB) -> None:
    """What someone asked for by name is not weakened, but the answer says it is unusual."""
    for i in range(4):
        put(db, f"house {i}", i)
    strong = put(db, "tower", 9, scale=1000.0)
    answer = db.ask("Who counts the boats?", mode="adapter", mixture={"tower": 0.5})
    assert answer.mixture.parts == ((strong, 0.5),)
    assert answer.note.startswith(f"unusually strong: {strong} (")


def test_a_lora_alone_is_not_held_back(db: AdapterDB) -> None:
    """One or two deltas have nothing to be measured by."""
    one = put(db, "tower", 9, scale=1000.0)
    for _ in range(2):
        answer = db.ask("Who counts the boats?", mode="adapter", k=1, min_similarity=-1.0)
        assert answer.note == ""
        assert sum(weight for _, weight in answer.mixture.parts) == 1.0
        put(db, "house", 1)
    assert db.delta(one).norm > 0


def test_a_row_that_is_not_finite_never_gets_in(db: AdapterDB) -> None:
    """NaN would make every mixture NaN, whatever its weight."""
    row = torch.zeros(db._home.layout.size)
    row[3] = float("nan")
    with pytest.raises(Mismatch):
        db.put(row, text="Nothing.", name="nan")
