"""Deltas that must not be used any more: passed over when answering, refused when named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.errors import Corrupt
from adapterdb.peft_format import read_peft
from adapterdb.records import Passage
from adapterdb.store.rows import NewDocument, NewPassage
from adapterdb.training.start import Start

TEXTS = {
    "ferry": "The ferry of Almery leaves at nine from the north quay.",
    "quay": "The north quay of Almery was built of oak and slate.",
}
QUESTION = "Where does the ferry of Almery leave?"


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> AdapterDB:
    """A home whose two documents share one row of a cluster, made from the first."""
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32")
    made = AdapterDB.create(tmp_path / "home", config, options=LoadOptions(dtype="float32"))
    made.ingest([Document("seed", TEXTS["ferry"])])
    home = made._home
    row = home.store.passages(made.get("seed").id)[0].row
    home.store.commit([_member(made, name, row) for name in TEXTS])
    made.delete("seed")
    return made


def _member(db: AdapterDB, name: str, row: object) -> NewDocument:
    text = TEXTS[name]
    passage = NewPassage(
        Passage(0, 0, len(text), text, 9),
        db._home.embedder.encode([text])[0],
        row,  # type: ignore[arg-type]
        kind="cluster",
        recipe="test",
        own=name == "ferry",
    )
    sha = hashlib.sha256(text.encode()).hexdigest()
    return NewDocument("default", Document(name, text), sha, name, (passage,))


def test_a_withdrawn_delta_is_passed_over(db: AdapterDB, tmp_path: Path) -> None:
    """Its passage is found and read, it does not act; named, exported or applied it is an error."""
    with db:
        asked = db.ask(QUESTION, mode="hybrid")
        assert len(asked.mixture.parts) == 2
        delta = db.deltas("quay")[0]
        assert (delta.own, delta.damaged) == (False, False)
        db.delete("ferry")
        answer = db.ask(QUESTION, mode="hybrid")
        assert [source.document for source in answer.sources] == ["quay"]
        assert answer.mixture.parts == ()
        assert delta.id in answer.note
        assert db.ask(QUESTION, mixture={delta.id: 1.0}).mixture.parts == ()
        with pytest.raises(Corrupt) as caught:
            db.export("quay", tmp_path / "out")
        assert caught.value.code == "damaged"
        with pytest.raises(Corrupt), db.applied({delta.id: 1.0}):
            pass


def test_a_gradient_whose_start_is_gone_is_passed_over(db: AdapterDB) -> None:
    """Neither found nor guessed at: it is left out and named, and LoRA deltas act on."""
    with db:
        store = db._home.store
        row = store.passages(db.get("quay").id)[0].row
        fresh = _member(db, "quay", row)
        (entry,) = fresh.passages
        lost = NewPassage(
            entry.passage, entry.vector, row, "gradient", "test", meta_init_fingerprint="f" * 64
        )
        store.commit([NewDocument("default", fresh.document, fresh.text_sha256, "k", (lost,))])
        answer = db.ask(QUESTION, mode="hybrid")
        assert [db.delta(i).document for i, _ in answer.mixture.parts] == ["ferry"]
        assert db.deltas("quay")[0].id in answer.note
        assert db.deltas("quay")[0].shared_start == "f" * 64


def test_a_gradient_acts_and_is_exported_from_its_own_start(db: AdapterDB, tmp_path: Path) -> None:
    """One made at a start that the home keeps besides its first acts and is written from that."""
    with db:
        home = db._home
        layout = home.layout
        start = Start(home.start.theta + 1, home.start.alpha * 3)
        home.starts.keep("meta-init", start, {})
        row = home.store.passages(db.get("quay").id)[0].row
        fresh = _member(db, "quay", row)
        (entry,) = fresh.passages
        made = NewPassage(
            entry.passage,
            entry.vector,
            row,
            "gradient",
            "test",
            meta_init_fingerprint=start.fingerprint,
        )
        home.store.commit([NewDocument("default", fresh.document, fresh.text_sha256, "k", (made,))])
        folder = db.export("quay", tmp_path / "out")[0]
        want = start.step(home.store.read_row(row))
        assert load_file(folder / "adapter_model.safetensors")
        assert (read_peft(folder, layout) - want).abs().max() < 1e-6
        delta = db.deltas("quay")[0]
        with db.applied({delta.id: 1.0}) as model:
            ids = home.base.encoder.blind("x")
            ours = model(torch.tensor([ids])).logits
        with home.runtime.adapted.using_rows(want[None]):
            theirs = home.base.model(torch.tensor([ids])).logits
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
