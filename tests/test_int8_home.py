"""A home that stores its deltas as int8, through the public object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec, Mixture
from adapterdb.config import ChunkConfig, DeltaDtype
from adapterdb.peft_format import read_peft
from adapterdb.store.encoding import stored_bytes
from adapterdb.store.upkeep.check import check

TEXT = "Mara rowed her boat to the island of Oste in 1804 and built a lighthouse there."


def made(folder: Path, base: Path, dtype: DeltaDtype) -> AdapterDB:
    """A home of one document."""
    config = Config(
        base=str(base), lora=LoraSpec(rank=2), delta_dtype=dtype, chunk=ChunkConfig(tokens=128)
    )
    db = AdapterDB.create(folder, config, options=LoadOptions(dtype="float32"))
    report = db.ingest(Document("boats", TEXT, title="boats"))
    assert (report.added, report.rejected) == (1, 0)
    return db


def test_an_int8_home_ingests_asks_exports_and_checks(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its deltas are near those of a float32 home at a third of the bytes, and act."""
    base = tiny_folder("llama")
    with made(tmp_path / "int8", base, "int8") as db, made(tmp_path / "f32", base, "float32") as f:
        rows = [
            read_peft(home.export("boats", tmp_path / name)[0], home._home.layout)
            for name, home in (("a", db), ("b", f))
        ]
        assert float((rows[0] - rows[1]).norm() / rows[1].norm()) < 3e-3
        assert not torch.equal(rows[0], rows[1])  # what was stored is what is exported
        (delta,) = db.deltas("boats")
        assert delta.dtype == "int8"
        assert delta.size_bytes == stored_bytes("int8", db._home.layout.size)
        assert delta.norm == pytest.approx(f.deltas("boats")[0].norm, rel=1e-6)
        mixture = Mixture(((delta.id, 300.0),))
        acting = db.ask("Who built it?", mode="adapter", mixture=mixture).text
        assert acting != db.ask("Who built it?", mode="base").text
        assert check(db._home.store, deep=True) == []
        estimate = db.estimate(Document("other", TEXT))
        assert estimate.size_bytes == delta.size_bytes + 4 * db._home.embedder.dimension
        copy = db.put(tmp_path / "b" / f.deltas("boats")[0].id, text="A copy.", name="copy")
        assert copy.dtype == "int8"


def test_an_int8_home_is_read_again(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The dtype is remembered, and a second process answers the same."""
    with made(tmp_path / "home", tiny_folder("llama"), "int8") as db:
        said = db.ask("Who built it?", mode="adapter").text
    with AdapterDB.open(tmp_path / "home", options=LoadOptions(dtype="float32")) as db:
        assert db.config.delta_dtype == "int8"
        assert db.ask("Who built it?", mode="adapter").text == said
