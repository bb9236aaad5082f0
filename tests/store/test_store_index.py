"""The index is derived: lost, damaged or stale, it never changes what is true."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import store_making as making

from adapterdb.errors import AdapterDBError, InvalidInput
from adapterdb.store import Store, check
from adapterdb.store.passages import IndexRows
from adapterdb.store.upkeep.stats import measure

TEXTS = [f"word{i} common text number {i}" for i in range(30)]

ROUGH = [
    '"',
    "'",
    'common" OR (',
    "((((((",
    "))) common",
    "common AND NOT text",
    "common*",
    "~common^2",
    "*",
    "",
    "   \t\n",
    "field:common",
    "[common TO text]",
    "\\",
    "common\0text",
    "Straße ÜBER 東京 🙂",
    "\u202e common",
    "common " * 3000,
    "x" * 100_000,
    "'; DROP TABLE passages; --",
]


def filled(folder: Path) -> Store:
    """A store with one document of 30 passages, indexed."""
    store = making.make(folder)
    making.add(store, "d", *TEXTS)
    assert store.apply_outbox() == len(TEXTS)
    return store


def truth(query: str) -> list[str]:
    """All texts by cosine with ``query``, computed here."""
    vector = making.vector(query)
    return sorted(TEXTS, key=lambda text: -float(making.vector(text) @ vector))


def tables(store: Store) -> list[Path]:
    """Folders of tables and of what was set aside."""
    return sorted(path for path in store.paths.index.glob("*/*"))


def test_search_equals_brute_force(tmp_path: Path) -> None:
    """Hits and cosines of the index are those computed directly."""
    with filled(tmp_path) as store:
        for query in ("a", "b", "c"):
            hits = store.search_vectors("default", making.vector(query), 7)
            assert [hit.passage.text for hit in hits] == truth(query)[:7]
            for hit in hits:
                cosine = float(making.vector(hit.passage.text) @ making.vector(query))
                assert hit.score == pytest.approx(cosine, abs=1e-5)
            ids = [hit.passage.passage_id for hit in hits]
            similar = store.similarities(making.vector(query), ids)
            assert similar == pytest.approx({h.passage.passage_id: h.score for h in hits})
        assert len(store.search_vectors("default", making.vector("a"), 1000)) == len(TEXTS)


def test_words_are_found(tmp_path: Path) -> None:
    """BM25 puts the passage with the rare word first."""
    with filled(tmp_path) as store:
        hits = store.search_text("default", "common word7", 3)
        assert hits[0].passage.text == TEXTS[7]
        assert hits[0].score > hits[1].score
        assert store.search_text("default", "absent", 3) == []


@pytest.mark.parametrize("text", ROUGH, ids=lambda text: repr(text[:12]))
def test_any_query_text_is_safe(rough: Store, text: str) -> None:
    """Quotes, operators, control characters and floods are just words, or nothing."""
    hits = rough.search_text("default", text, 3)
    assert len(hits) <= 3
    if "common" in text:
        assert hits


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A filled store that the rough queries share."""
    return filled(tmp_path_factory.mktemp("rough"))


def test_odd_vectors_have_defined_answers(tmp_path: Path) -> None:
    """Zero, NaN and infinite vectors find nothing; another dimension is an error."""
    with filled(tmp_path) as store:
        for value in (0.0, float("nan"), float("inf")):
            assert store.search_vectors("default", np.full(8, value, np.float32), 3) == []
        with pytest.raises(InvalidInput):
            store.search_vectors("default", np.ones(9, np.float32), 3)
        for n in (0, -1, 10**9, True):
            with pytest.raises(InvalidInput):
                store.search_vectors("default", making.vector("a"), n)


@pytest.mark.parametrize("reopen", [False, True])
def test_a_lost_index_is_rebuilt(tmp_path: Path, reopen: bool) -> None:
    """After the folder is deleted, in this process or before it, answers are the same."""
    store = filled(tmp_path)
    shutil.rmtree(store.paths.index)
    if reopen:
        store.close()
        store = Store.open(tmp_path)
    assert making.found(store, "a", 5) == truth("a")[:5]
    assert store.search_text("default", "word3", 1)[0].passage.text == TEXTS[3]
    assert making.found(store, "b", 5) == truth("b")[:5]
    assert store.index.count("default", store.outbox.pending("default").generation) == 30
    assert check(store, deep=True) == []
    store.close()


@pytest.mark.parametrize("damage", ["manifest", "data", "rows"])
def test_a_damaged_index_is_set_aside_and_rebuilt(tmp_path: Path, damage: str) -> None:
    """Emptied files and missing rows (as after a power cut) are noticed by the next process."""
    store = filled(tmp_path)
    if damage == "rows":
        generation = store.outbox.pending("default").generation
        nothing = IndexRows([], np.zeros((0, 8), np.float32), [])
        store.index.apply("default", generation, nothing, [1, 2, 3])
    else:
        pattern = "*.manifest" if damage == "manifest" else "data/*"
        for path in store.paths.index.rglob(pattern):
            path.write_bytes(b"")
    store.close()
    with Store.open(tmp_path) as store:
        found = [finding.code for finding in check(store)]
        assert found == [{"rows": "index_missing"}.get(damage, "index_unreadable")]
        assert making.found(store, "a", 5) == truth("a")[:5]
        assert store.outbox.pending("default").generation == 2
        assert [path.name for path in tables(store)] == ["g000001.bad-1", "g000002"]
        assert [finding.code for finding in check(store, deep=True)] == ["index_set_aside"]


def test_stale_rows_never_answer(tmp_path: Path) -> None:
    """Index rows of a deleted document, planted behind the store's back, are not returned."""
    with filled(tmp_path) as store:
        making.add(store, "gone", "gone words")
        store.apply_outbox()
        gone = store.passages(store.document("default", "gone").id)[0].passage_id
        store.delete("default", ["gone"])
        store.apply_outbox()
        generation = store.outbox.pending("default").generation
        alone = IndexRows([gone], making.vector("gone words")[None], ["gone words"])
        store.index.apply("default", generation, alone, [])
        assert store.search_text("default", "gone", 5) == []
        assert "gone words" not in making.found(store, "gone words")
        planted = [gone, *range(10**6, 10**6 + 40)]
        vectors = np.repeat(making.vector("gone words")[None], len(planted), axis=0)
        rows = IndexRows(planted, vectors, ["gone words"] * len(planted))
        store.index.apply("default", generation, rows, [])
        assert making.found(store, "gone words", 5) == truth("gone words")[:5]
        hits = store.search_text("default", "gone words", 5)
        assert all(hit.passage.document == "d" for hit in hits)
        assert "index_extra" in {finding.code for finding in check(store)}


def test_pending_changes_are_searched_from_sql(tmp_path: Path) -> None:
    """While another process holds the index, new documents are found and old versions are not."""
    from filelock import FileLock

    from adapterdb.store.index import short_hash

    with filled(tmp_path) as store:
        path = store.paths.locks / f"index-{short_hash('default')}.lock"
        with FileLock(path):
            making.add(store, "fresh", "fresh common words", seed=5)
            making.add(store, "d", "only this now", seed=6)
            assert store.apply_outbox(timeout_s=0) == 0
            assert measure(store).pending == 32
            assert sorted(making.found(store, "a")) == ["fresh common words", "only this now"]
            hits = store.search_text("default", "common", 5)
            assert [hit.passage.document for hit in hits] == ["fresh"]
            assert {finding.code for finding in check(store)} == {"outbox_pending"}
        assert store.apply_outbox() == 32
        assert sorted(making.found(store, "a")) == ["fresh common words", "only this now"]
        assert check(store, deep=True) == []


def test_applying_again_changes_nothing(tmp_path: Path) -> None:
    """A batch applied twice, as after a crash between index and outbox, leaves one row each."""
    with making.make(tmp_path) as store:
        making.add(store, "first", "first")
        store.apply_outbox()
        making.add(store, "d", *TEXTS)
        batch = store.outbox.fetch("default")
        store.index.apply("default", 1, batch.puts, batch.deletes)
        store.index.apply("default", 1, batch.puts, batch.deletes)
        assert store.apply_outbox() == 30
        assert store.index.count("default", 1) == 31
        assert check(store, deep=True) == []


def test_altered_vectors_are_reported_and_scores_stay_true(tmp_path: Path) -> None:
    """A changed vector in the index shows in a deep check; scores still come from SQL."""
    with filled(tmp_path) as store:
        passage = store.passages(store.document("default", "d").id)[4]
        wrong = IndexRows([passage.passage_id], making.vector("q")[None], [passage.text])
        store.index.apply("default", 1, wrong, [])
        assert [finding.code for finding in check(store, deep=True)] == ["index_differs"]
        hits = store.search_vectors("default", making.vector("q"), 30)
        scores = {hit.passage.text: hit.score for hit in hits}
        cosine = float(making.vector(passage.text) @ making.vector("q"))
        assert scores[passage.text] == pytest.approx(cosine, abs=1e-5)


def test_few_versions_stay_after_many_small_commits(tmp_path: Path) -> None:
    """The table is tidied as it grows, so that small commits don't slow down reading."""
    with making.make(tmp_path) as store:
        for i in range(70):
            making.add(store, f"d{i}", f"text {i}", seed=i)
            store.apply_outbox()
        fragments = list(store.paths.index.rglob("data/*.lance"))
        assert store.index.count("default", 1) == 70
        assert len(making.found(store, "x", 100)) == 70
        assert len(fragments) < 70 + 10


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """The index says so instead of crashing when it is used after a fork."""
    with filled(tmp_path) as store:
        store.index._process = os.getpid() + 1  # as a child would see it
        with pytest.raises(AdapterDBError) as caught:
            store.search_vectors("default", making.vector("a"), 1)
        assert caught.value.code == "forked"


def test_an_index_that_lost_its_newest_versions_is_not_trusted(tmp_path: Path) -> None:
    """As many rows as there should be are not enough: they must be the right ones."""
    with making.make(tmp_path) as store:
        for i in range(6):
            making.add(store, f"d{i}", f"text {i}", seed=i)
        store.apply_outbox()
        making.add(store, "d0", "brand new words", seed=9)
        store.apply_outbox()
        place = store.index.place("default", 1)
    manifests = sorted(place.rglob("*.manifest"), key=lambda path: path.stat().st_mtime_ns)
    for manifest in manifests[-2:]:
        manifest.unlink()
    shutil.rmtree(place / "sums", ignore_errors=True)
    with Store.open(tmp_path) as store:
        assert making.found(store, "brand new words", 1) == ["brand new words"]
