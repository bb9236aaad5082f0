"""One delta for each cluster of passages: made, found, taken from all when a maker of it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.config import ChunkConfig
from adapterdb.errors import NotFound
from adapterdb.ingest.clusters import ClusterOptions

OPTIONS = LoadOptions(dtype="float32")
BOATS = ["Mara rowed her boat to the island.", "The boat sailed across the sea to the island.",
         "A boat with a red sail lies on the island's shore."]  # fmt: skip
CHEESE = ["The cheese of Velm is salted for nine weeks.", "Salt and milk make the cheese of Velm.",
          "The cheese ripens in a cellar, in salt."]  # fmt: skip
DOCUMENTS = [
    Document(f"{kind}{i}", text)
    for kind, texts in (("boat", BOATS), ("cheese", CHEESE))
    for i, text in enumerate(texts)
]


@pytest.fixture(params=["rg", "gradient"])
def db(
    request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> Iterator[AdapterDB]:
    config = Config(
        base=str(tiny_folder("llama")), recipe=request.param, lora=LoraSpec(rank=2),
        delta_dtype="float32", chunk=ChunkConfig(tokens=128),
    )  # fmt: skip
    with AdapterDB.create(tmp_path / "home", config, options=OPTIONS) as made:
        yield made


def rows(db: AdapterDB) -> dict[str, tuple[str, int]]:
    """Document to where its delta's row lies."""
    store = db._home.store
    found = {}
    for document in db.list():
        (delta,) = db.deltas(document.name)
        (ref,) = store.rows_of([delta.id])
        found[document.name] = (ref.file, ref.offset)
    return found


def contents(db: AdapterDB, names: Sequence[str]) -> list[list[float]]:
    """The rows of documents' deltas, number by number."""
    store = db._home.store
    refs = store.rows_of([db.deltas(name)[0].id for name in names])
    return [store.read_row(ref).tolist() for ref in refs]


def test_passages_of_a_cluster_share_one_row(db: AdapterDB) -> None:
    report = db.ingest(DOCUMENTS, clusters=ClusterOptions(2))
    assert (report.added, report.passages) == (6, 6)
    found = rows(db)
    assert len(set(found.values())) == 2
    for kind in ("boat", "cheese"):
        assert len({found[f"{kind}{i}"] for i in range(3)}) == 1
    deltas = [db.deltas(document.name)[0] for document in DOCUMENTS]
    assert {delta.kind for delta in deltas} == {"cluster"}
    assert sum(delta.own for delta in deltas) == 2  # one representative each
    stats = db.stats()
    assert (stats.clusters, stats.deltas) == (2, 6)
    assert db.ingest(DOCUMENTS, clusters=ClusterOptions(2)).skipped == 6
    assert db.ingest(DOCUMENTS, clusters=ClusterOptions(3)).updated == 6


def test_a_cluster_s_delta_is_fitted_to_its_representatives(db: AdapterDB) -> None:
    """It is the delta of one document that holds nothing but the representative."""
    db.ingest(DOCUMENTS, clusters=ClusterOptions(2))
    home = db._home
    own = [d for d in DOCUMENTS if db.deltas(d.name)[0].own]
    for document in own:
        db.ingest([document], namespace="alone")
        (alone,) = db.deltas(document.name, namespace="alone")
        (cluster,) = db.deltas(document.name)
        row, one = (home.store.read_row(home.store.rows_of([d.id])[0]) for d in (cluster, alone))
        used = home.start.step(one) if alone.kind == "gradient" else one
        theta = home.start.theta  # bfloat16 products differ a little with the batch
        assert torch.cosine_similarity(row - theta, used - theta, dim=0) > 0.99


def test_questions_are_answered_with_cluster_deltas(db: AdapterDB) -> None:
    db.ingest(DOCUMENTS, clusters=ClusterOptions(2))
    answer = db.ask("How is cheese salted?", mode="adapter", k=3, min_similarity=-1.0)
    assert [s.document[:6] for s in answer.sources] == ["cheese"] * 3
    assert sum(weight for _, weight in answer.mixture.parts) == pytest.approx(1.0)


@pytest.mark.parametrize("way", ["delete", "forget"])
def test_a_maker_that_goes_takes_the_delta_from_all(db: AdapterDB, way: str) -> None:
    db.ingest(DOCUMENTS, clusters=ClusterOptions(2))
    maker = next(d.name for d in DOCUMENTS if db.deltas(d.name)[0].own and "boat" in d.name)
    others = [f"boat{i}" for i in range(3) if f"boat{i}" != maker]
    kept = ("cheese0", "cheese1", "cheese2")
    before = contents(db, kept)
    getattr(db, way)(maker)
    assert db.stats().damaged == 2
    answer = db.ask("Who rowed the boat?", mode="adapter", k=5, min_similarity=-1.0)
    assert {s.document for s in answer.sources} <= {"cheese0", "cheese1", "cheese2"}
    again = [d for d in DOCUMENTS if d.name in others]
    assert db.ingest(again, clusters=ClusterOptions(1)).updated == 2
    assert db.stats().damaged == 0
    assert contents(db, kept) == before
    assert not [f for f in db.maintenance.check(deep=True) if f.severity == "error"]


def test_one_that_is_represented_goes_alone(db: AdapterDB) -> None:
    db.ingest(DOCUMENTS, clusters=ClusterOptions(2))
    member = next(d.name for d in DOCUMENTS if not db.deltas(d.name)[0].own)
    before = rows(db)
    receipt = db.forget(member)
    assert not receipt.residue
    assert db.stats().damaged == 0
    store = db._home.store
    for name in set(before) - {member}:
        store.read_row(store.rows_of([db.deltas(name)[0].id])[0])
    assert db.stats().clusters == 2


def test_stored_deltas_are_clustered_by_direction(db: AdapterDB) -> None:
    twice = [*DOCUMENTS, *(replace(d, name=f"{d.name}-again") for d in DOCUMENTS)]
    db.ingest(twice)
    report = db.cluster(ClusterOptions(6, "all"))
    assert report.updated == 12
    found = rows(db)
    for document in DOCUMENTS:  # equal texts have equal deltas
        assert found[document.name] == found[f"{document.name}-again"]
    assert len(set(found.values())) == 6
    assert all(db.deltas(document.name)[0].own for document in twice)
    assert db.ingest(twice).skipped == 12
    db.rollback("boat0", 1)
    assert db.deltas("boat0")[0].kind != "cluster"


def test_clustering_nothing_says_so(db: AdapterDB) -> None:
    with pytest.raises(NotFound, match="no such document"):
        db.cluster(ClusterOptions(2))
    report = db.ingest([Document("empty", "   ")], clusters=ClusterOptions(2))
    assert (report.added, report.rejected) == (0, 1)
