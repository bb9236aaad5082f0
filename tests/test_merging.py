"""Merged deltas are stored, asked and withdrawn like others; merged models act as the mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterdb import (
    AdapterDB,
    Config,
    Document,
    LoadOptions,
    LoraSpec,
    Mixture,
    prototype,
)
from adapterdb.answers import MERGES, Composition, Dials
from adapterdb.base_model import load_base_model
from adapterdb.config import ChunkConfig
from adapterdb.errors import AdapterDBError, Exists, InvalidInput, NotFound

FLOAT32 = LoadOptions(dtype="float32")
TEXTS = {
    "boats": "Mara rowed her boat to the island of Oste in 1804 and built a lighthouse there.",
    "cheese": "The cheese makers of Velm salt their wheels for nine weeks in a cold cellar.",
    "trains": "A narrow railway climbs the hill from Pradel to the slate mine every morning.",
}
IDS = torch.tensor([[5, 90, 200, 31, 77, 140]])


@pytest.fixture(scope="module", params=["lora", "gradient"])
def db(
    request: pytest.FixtureRequest,
    tiny_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AdapterDB]:
    """A home with three documents, of LoRA or of gradient deltas; tests delete what they add."""
    recipe = "rg" if request.param == "lora" else "gradient"
    config = Config(
        base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32",
        chunk=ChunkConfig(tokens=128), recipe=recipe,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("merging") / "home"
    with AdapterDB.create(place, config, options=FLOAT32) as database:
        titled = [Document(name, text, title=name.title()) for name, text in TEXTS.items()]
        assert database.ingest(titled).added == 3
        assert database.deltas("boats")[0].kind == request.param
        yield database


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """What a model says of some tokens."""
    found: Tensor = model(input_ids=IDS).logits
    return found


def acting(db: AdapterDB, mixture: Mixture) -> Tensor:
    """What the base model says of them while a mixture acts."""
    with db.applied(mixture) as model:
        return logits(model)


def parts(db: AdapterDB, *weights: float) -> tuple[tuple[str, float], ...]:
    """The deltas of the three documents, in order, with weights."""
    return tuple((db.deltas(n)[0].id, w) for n, w in zip(TEXTS, weights, strict=False))


@pytest.mark.parametrize("composition", MERGES)
def test_a_merged_delta_acts_as_the_mixture_it_was_made_of(
    db: AdapterDB, composition: Composition
) -> None:
    """Stored under its own name it has the logits of the same merge made for one question."""
    weights, dials = {"boats": 30.0, "cheese": -10.0, "trains": 20.0}, Dials(density=0.6, seed=3)
    delta = db.merge(TEXTS, composition, compose=composition, weights=weights, dials=dials)
    assert (delta.kind, delta.recipe) == ("merged", f"merge:{composition}")
    want = acting(db, Mixture(parts(db, 30.0, -10.0, 20.0), composition, dials))
    with db.applied({}) as model:
        alone = logits(model)
    found = acting(db, Mixture(((delta.id, 1.0),)))
    assert torch.allclose(found, want, atol=1e-4)
    assert float((found - alone).abs().max()) > 1e-3
    db.delete(composition)


def test_a_merged_delta_is_found_asked_and_described(db: AdapterDB) -> None:
    """It has a text that names its parents, fields that say how it was made, and a prototype."""
    delta = db.merge(
        ["boats", "cheese"], "both", compose="svd", weights={"boats": 2.0}, strength=0.5,
        metadata={"year": 1900},
    )  # fmt: skip
    assert db.text("both") == "Merged from: Boats (boats), Cheese (cheese)."
    fields = db.get("both").metadata
    ids = [delta_id for delta_id, _ in parts(db, 1, 1)]
    assert fields["weights"] == [f"{ids[0]}=1", f"{ids[1]}=0.5"]
    assert (fields["composition"], fields["year"]) == ("svd", 1900)
    named = db.merge(["boats"], "both", compose="linear", text="Lighthouses of old.")
    assert (named.document, named.version) == ("both", 2)
    assert db.search("lighthouses of old", k=1)[0].delta_id == named.id
    answer = db.ask("lighthouses of old?", mode="adapter", k=1)
    assert [source.delta_id for source in answer.sources] == [named.id]
    store = db._home.store
    (row,) = (store.read_row(ref) for ref in store.rows_of([named.id]))
    (core,) = prototype.cores(db._home.layout, row[None])
    assert store.prototypes_of([named.id]) == [prototype.to_bytes(core)]
    assert delta.id != named.id
    db.delete("both")


def test_prototypes_are_kept_of_what_is_ingested(db: AdapterDB) -> None:
    """Each is that of the factors with which its delta acts alone."""
    home = db._home
    for name in TEXTS:
        (delta,) = db.deltas(name)
        row = home.store.read_row(home.store.rows_of([delta.id])[0])
        used = home.start.step(row) if delta.kind == "gradient" else row
        (kept,) = home.store.prototypes_of([delta.id])
        (core,) = prototype.cores(home.layout, used[None])
        assert torch.allclose(prototype.from_bytes(home.layout, kept), core, atol=1e-5)


def test_what_is_merged_goes_with_its_parents(db: AdapterDB) -> None:
    """Deleting or forgetting one of them takes the merged delta with it, and no other."""
    for out in (db.delete, db.forget):
        db.ingest([Document("short-lived", "The old mill of Tarn burnt down in 1790.")])
        db.merge(["short-lived", "boats"], "with it", compose="svd")
        db.merge(["cheese", "boats"], "without it", compose="svd")
        out("short-lived")
        with pytest.raises(NotFound):
            db.get("with it")
        assert db.get("without it").name == "without it"
        db.delete("without it")


def test_sums_that_one_delta_can_hold(db: AdapterDB) -> None:
    """Gradients of one start sum to one row; LoRA deltas don't, and the hint says what does."""
    gradient = db.deltas("boats")[0].kind == "gradient"
    for composition in ("cat", "gradient"):
        if not gradient:
            with pytest.raises(InvalidInput) as caught:
                db.merge(TEXTS, "sum", compose=composition)  # type: ignore[arg-type]
            assert "svd" in caught.value.hint or "cat" in caught.value.hint
            continue
        delta = db.merge(TEXTS, "sum", compose=composition, weights="sum")  # type: ignore[arg-type]
        want = acting(db, Mixture(parts(db, 1.0, 1.0, 1.0), composition))  # type: ignore[arg-type]
        assert torch.allclose(acting(db, Mixture(((delta.id, 1.0),))), want, atol=1e-5)
        db.delete("sum")


def test_what_can_not_be_merged(db: AdapterDB) -> None:
    """Gates, names twice, names that aren't merged, itself, another namespace, bad weights."""
    (boats,) = db.deltas("boats")
    for names, into, how in (
        (TEXTS, "x", {"compose": "arrow"}),
        (TEXTS, "x", {"compose": "mean"}),
        (TEXTS, "boats", {}),
        (["boats", boats.id], "x", {}),
        ([], "x", {}),
        (TEXTS, "x", {"weights": {"nothing": 1.0}}),
        (TEXTS, "x", {"weights": {"boats": float("nan")}}),
        (TEXTS, "x", {"weights": "score"}),
        (TEXTS, "x", {"strength": 1e9}),
        ([boats.id], "x", {"namespace": "other"}),
        (["no such"], "x", {}),
    ):
        with pytest.raises(AdapterDBError):
            db.merge(names, into, **how)  # type: ignore[arg-type]
    assert sorted(d.name for d in db.list()) == sorted(TEXTS)


@pytest.mark.parametrize("composition", ["cat", "ties"])
def test_a_merged_model_acts_as_the_mixture(
    db: AdapterDB, tmp_path: Path, composition: Composition
) -> None:
    """transformers loads the folder, its logits are the mixture's; the base stays as it was."""
    mixture = Mixture(parts(db, 20.0, -5.0, 10.0), composition)
    want = acting(db, mixture)
    before = {name: t.clone() for name, t in db._home.base.model.state_dict().items()}
    folder = db.merged_model(mixture, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert torch.allclose(logits(load_base_model(str(folder)).model), want, atol=1e-4)
    after = db._home.base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(Exists):
        db.merged_model(mixture, folder)
    for refused in (Mixture(mixture.parts, "arrow"), Mixture()):
        with pytest.raises(InvalidInput):
            db.merged_model(refused, tmp_path / "refused")


def test_a_merged_model_is_a_base_of_its_own(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A home can be made on the folder, also of a model built of Conv1D; it answers like it."""
    spec = LoraSpec(rank=2, targets=("all",))
    config = Config(base=str(tiny_folder("gpt2")), lora=spec, delta_dtype="float32")
    with AdapterDB.create(tmp_path / "home", config, options=FLOAT32) as first:
        first.ingest([Document("boats", TEXTS["boats"])])
        want = acting(first, Mixture(((first.deltas("boats")[0].id, 50.0),)))
        said = first.ask("Who?", mode="adapter", mixture={"boats": 50.0}).text
        folder = first.merged_model({"boats": 50.0}, tmp_path / "deep" / "model")
        prompts = first._home.base.encoder.prompts
    config = Config(base=str(folder), lora=spec)
    with AdapterDB.create(tmp_path / "next", config, options=FLOAT32) as second:
        assert torch.allclose(logits(second._home.base.model), want, atol=1e-4)
        assert second.ask("Who?", mode="base").text == said
        assert second._home.base.encoder.prompts == prompts
        assert second.ingest([Document("cheese", TEXTS["cheese"])]).added == 1
