"""Several starts in one home: what recipes begin from, and what stored deltas go on acting from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.training.recipes import get_recipe
from adapterdb.training.start import Start, base_weight

TEXT = "Mara rowed her boat to the island of Oste in 1804 and built a lighthouse there."


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[AdapterDB]:
    config = Config(
        base=str(tiny_folder("llama")), recipe="gradient", lora=LoraSpec(rank=2, layers="1-1"),
        delta_dtype="float32", chunk=ChunkConfig(tokens=128),
    )  # fmt: skip
    with AdapterDB.create(tmp_path / "home", config, options=LoadOptions(dtype="float32")) as made:
        yield made


def trained(db: AdapterDB, seed: int) -> Start:
    """A start whose B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    plain = base_weight(db._home.layout, seed=seed)
    noise = 0.05 * torch.randn(plain.theta.shape, generator=generator)
    return Start(plain.theta + noise, torch.rand(plain.theta.shape, generator=generator))


def logits(db: AdapterDB, delta_id: str) -> torch.Tensor:
    with db.applied({delta_id: 1.0}) as model:
        return model(torch.arange(3, 40)[None]).logits


def test_a_recipe_begins_from_the_newest_start_of_its_kind(db: AdapterDB) -> None:
    starts = db._home.starts
    gradient = get_recipe("gradient", has_meta_init=True)
    plain = starts.of_recipe(gradient)
    assert plain.fingerprint == db.fingerprints["start"]
    for seed in (1, 2):
        starts.keep("meta-init", trained(db, seed), {"seed": seed})
        assert starts.of_recipe(gradient).fingerprint == trained(db, seed).fingerprint
    rg = get_recipe("rg", has_meta_init=True)
    assert torch.equal(starts.of_recipe(rg).theta, base_weight(db._home.layout).theta)
    assert [part.name for part in db.trainer.parts()] == ["meta-init@1", "meta-init@2"]


def test_a_task_tuned_start_has_to_be_there_and_takes_the_recipe_s_step(db: AdapterDB) -> None:
    starts = db._home.starts
    control = get_recipe("ftsimada", has_meta_init=True)
    with pytest.raises(InvalidInput, match="task-tuned start") as error:
        db.ingest([Document("a", TEXT)], recipe="ftsimada")
    assert error.value.code == "no_start"
    row = trained(db, 3).theta
    starts.keep("ft", Start(row, torch.zeros_like(row)), {})
    start = starts.of_recipe(control)
    assert torch.equal(start.theta, row)
    assert start.alpha.unique().tolist() == pytest.approx([2e-4])


def test_deltas_act_from_the_start_they_were_made_at(db: AdapterDB) -> None:
    """A new meta-init makes documents anew, and leaves stored versions as they were."""
    home = db._home
    db.ingest([Document("a", TEXT)])
    (first,) = db.deltas("a")
    before = logits(db, first.id)
    home.starts.keep("meta-init", trained(db, 1), {})
    assert torch.equal(logits(db, first.id), before)
    assert db.ingest([Document("a", TEXT)]).updated == 1
    (second,) = db.deltas("a")
    assert (first.shared_start, second.shared_start) == (
        db.fingerprints["start"],
        trained(db, 1).fingerprint,
    )
    row = home.store.read_row(home.store.rows_of([second.id])[0])
    with home.runtime.adapted.using_rows(trained(db, 1).step(row)[None]) as model:
        expected = model(torch.arange(3, 40)[None]).logits
    assert torch.allclose(logits(db, second.id), expected, atol=1e-5)
    assert db.ingest([Document("a", TEXT)]).skipped == 1


def test_questions_mix_deltas_of_several_starts(db: AdapterDB) -> None:
    db.ingest([Document("a", TEXT)])
    db._home.starts.keep("meta-init", trained(db, 1), {})
    db.ingest([Document("b", "The cheese makers of Velm salt their wheels for nine weeks.")])
    answer = db.ask("Who built a lighthouse?", mode="adapter", k=2, min_similarity=-1.0)
    assert {source.document for source in answer.sources} == {"a", "b"}


def test_starts_outlive_the_program(db: AdapterDB) -> None:
    db._home.starts.keep("meta-init", trained(db, 1), {})
    db.ingest([Document("a", TEXT)])
    (delta,) = db.deltas("a")
    expected = logits(db, delta.id)
    path = db.path
    db.close()
    with AdapterDB.open(path, options=LoadOptions(dtype="float32"), read_only=True) as again:
        assert torch.equal(logits(again, delta.id), expected)
        with pytest.raises(NotFound):
            again._home.starts.of_fingerprint("0" * 64)


def test_a_plain_step_for_a_home_of_factors_is_kept(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """``--recipe gradient`` in a home made with ``rg``: the start its deltas act from is stored."""
    config = Config(base=str(tiny_folder("llama")), recipe="rg", delta_dtype="float32")
    options = LoadOptions(dtype="float32")
    with AdapterDB.create(tmp_path / "h", config, options=options) as made:
        made.ingest([Document("a", TEXT)], recipe="gradient")
        (delta,) = made.deltas("a")
        expected = logits(made, delta.id)
        assert [part.kind for part in made.trainer.parts()] == ["start"]
    with AdapterDB.open(tmp_path / "h", options=options) as again:
        assert torch.equal(logits(again, delta.id), expected)


def test_the_shipped_meta_init_can_be_had_back(tmp_path: Path) -> None:
    """After another one was trained, ``use shipped`` makes mini's own the newest again."""
    with AdapterDB.create(tmp_path / "mini") as made:
        starts, gradient = made._home.starts, get_recipe("gradient", has_meta_init=True)
        starts.keep("meta-init", trained(made, 1), {})
        assert starts.of_recipe(gradient).fingerprint != made.fingerprints["start"]
        part = made.trainer.use("shipped")
        assert starts.of_recipe(gradient).fingerprint == made.fingerprints["start"]
        assert part.fingerprint == made.fingerprints["start"]
