"""Versions: what was found when, what happened to a name, and how an earlier version comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import store_making as making
from sqlalchemy import inspect

from adapterdb.errors import Corrupt, InvalidInput, Mismatch, NotFound
from adapterdb.records import Change
from adapterdb.store import Store, check
from adapterdb.store.migrations import FORMAT
from adapterdb.store.upkeep.stats import measure

HOMES = Path(__file__).parent / "homes"


def _found_as_of(store: Store, text: str, seq: int, namespace: str = "default") -> set[str]:
    hits = store.search_vectors(namespace, making.vector(text), 100, as_of=seq)
    return {hit.passage.text for hit in hits}


def test_a_search_as_of_a_change_finds_what_was_known_then(tmp_path: Path) -> None:
    """As of each change exactly the passages that were active after it are found, both ways."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha one")
        making.add(store, "b", "beta one", seed=1)
        making.add(store, "a", "alpha two", "alpha more", seed=2)
        making.add(store, "c", "gamma", namespace="other", seed=3)
        store.apply_outbox()
        want = [
            set(),
            {"alpha one"},
            {"alpha one", "beta one"},
            {"alpha two", "alpha more", "beta one"},
            {"alpha two", "alpha more", "beta one"},
        ]
        for seq, texts in enumerate(want):
            assert _found_as_of(store, "alpha one", seq) == texts
            hits = store.search_text("default", "one", 10, as_of=seq)
            assert {hit.passage.text for hit in hits} == {t for t in texts if "one" in t}
        assert [d.name for d in store.documents(as_of=1)] == ["a"]
        assert making.found(store, "alpha one")[0] != "alpha one"
        ids = [hit.passage.passage_id for hit in store.search_text("default", "one", 9, as_of=1)]
        similar = store.similarities(making.vector("alpha one"), ids, as_of=1)
        assert similar[ids[0]] == pytest.approx(1)
        assert store.similarities(making.vector("alpha one"), ids) == {}


def test_an_earlier_search_minds_filter_and_namespace(tmp_path: Path) -> None:
    """A condition and a namespace hold for the past as they do for now."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha", metadata={"year": 1990})
        making.add(store, "b", "beta", metadata={"year": 2000}, seed=1)
        making.add(store, "a", "alpha again", metadata={"year": 2010}, seed=2)
        vector = making.vector("alpha")
        hits = store.search_vectors("default", vector, 9, where="year < 1995", as_of=2)
        assert [hit.passage.text for hit in hits] == ["alpha"]
        assert store.search_vectors("default", vector, 9, where="year < 1995") == []
        assert store.search_vectors("other", vector, 9, as_of=2) == []


def test_a_deleted_name_is_found_as_of_no_moment(tmp_path: Path) -> None:
    """Delete takes every version out of every answer, also of answers about the past."""
    with making.make(tmp_path) as store:
        first = making.add(store, "a", "alpha one")
        making.add(store, "a", "alpha two", seed=1)
        store.delete("default", ["a"])
        for seq in range(4):
            assert _found_as_of(store, "alpha one", seq) == set()
        for name in ("a", "a@1", "a@2"):
            with pytest.raises(NotFound):
                store.document("default", name)
        with pytest.raises(NotFound):
            store.text(first.id)


def test_history_tells_what_happened_latest_first(tmp_path: Path) -> None:
    """Every change of a name is in its history, with the version it made or ended."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha one")
        making.add(store, "b", "beta", seed=1)
        making.add(store, "a", "alpha two", seed=2)
        store.rollback("default", "a", 1)
        store.delete("default", ["a"])
        history = store.history("default", "a")
        told = [(change.seq, change.op, change.version) for change in history]
        assert told == [(5, "delete", 3), (4, "rollback", 3), (3, "put", 2), (1, "put", 1)]
        assert all(isinstance(change, Change) and change.kept for change in history)
        stats = measure(store)
        assert (stats.documents, stats.replaced, stats.deleted, stats.changes) == (1, 0, 3, 5)
        assert [change.at for change in history] == sorted((c.at for c in history), reverse=True)
        with pytest.raises(NotFound):
            store.history("default", "nothing")
        with pytest.raises(NotFound):
            store.history("other", "a")


def test_a_rollback_is_a_new_version_with_the_old_rows(tmp_path: Path) -> None:
    """The text, fields and stored rows of the old version act again; nothing is written anew."""
    with making.make(tmp_path) as store:
        old = making.add(store, "a", "alpha one", "alpha more", metadata={"year": 1990})
        rows = [passage.row for passage in store.passages(old.id)]
        making.add(store, "a", "alpha two", metadata={"year": 2000}, seed=1)
        files = store.weights.names()
        new = store.rollback("default", "a", 1)
        assert (new.version, new.metadata, new.text_sha256) == (3, old.metadata, old.text_sha256)
        assert [passage.row for passage in store.passages(new.id)] == rows
        assert store.weights.names() == files
        assert set(making.found(store, "alpha one")) == {"alpha one", "alpha more"}
        hits = store.search_vectors("default", making.vector("alpha one"), 5, where="year = 1990")
        assert len(hits) == 2
        assert store.is_current("default", "a", "key")
        for refused in (4, 99):
            with pytest.raises(NotFound):
                store.rollback("default", "a", refused)
        with pytest.raises(InvalidInput):
            store.rollback("default", "a", 0)
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []


def test_a_rollback_brings_a_deleted_name_back(tmp_path: Path) -> None:
    """A deletion can be undone for as long as the version is stored."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha one")
        store.delete("default", ["a"])
        assert store.rollback("default", "a", 1).version == 2
        assert making.found(store, "alpha one") == ["alpha one"]


def test_a_derived_delta_goes_when_a_parent_goes(tmp_path: Path) -> None:
    """Deleting a document takes what was made from its deltas, and what was made from that."""
    with making.make(tmp_path) as store:
        a = making.add(store, "a", "alpha")
        making.add(store, "b", "beta", seed=1)
        parent = store.deltas(a.id)[0].id
        child = making.add(store, "ab", "both", seed=2, parents=(parent,))
        grandchild = store.deltas(child.id)[0].id
        making.add(store, "abc", "all", seed=3, parents=(grandchild,))
        assert store.delete("default", ["a"]) == 1
        assert [d.name for d in store.documents()] == ["b"]
        assert [change.op for change in store.history("default", "abc")] == ["delete", "put"]


def test_moments_are_numbers_dates_and_times(tmp_path: Path) -> None:
    """A moment names the last change by then; what is no moment, or is to come, is refused."""
    with making.make(tmp_path) as store:
        for i in range(3):
            making.add(store, f"d{i}", f"text {i}", seed=i)
        times = [store.history("default", f"d{i}")[0].at for i in range(3)]
        assert [store.moment(n) for n in (0, 2, "3")] == [0, 2, 3]
        assert store.moment(times[2]) == 3
        assert store.moment(times[2][:10]) == 3
        assert store.moment("1999-12-31") == 0
        assert store.moment("9999-12-31T00:00+01:00") == 3
        for bad in ("4", "-1", -1, "yesterday", "", "2026-13-01", "²", "0001-01-01T00:00+05:00"):
            with pytest.raises(InvalidInput):
                store.moment(bad)


def test_a_clock_that_jumps_back_does_not_disturb_the_order(tmp_path: Path) -> None:
    """Times in the log never run backwards, and a date still means the last change by then."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha")
    making.alter(tmp_path, "UPDATE clock SET at = '2999-01-01T00:00:00.000+00:00'")
    with Store.open(tmp_path) as store:
        making.add(store, "a", "alpha two", seed=1)
        assert store.history("default", "a")[0].at.startswith("2999")
        assert store.moment("2998-12-31") == 1
        assert store.moment("2999-01-01") == 2


@pytest.mark.sqlite
def test_a_home_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """A stored home of format 1 opens with all it held, with history, and as a new one would be."""
    home = tmp_path / "old"
    shutil.copytree(HOMES / "format_1", home)
    with Store.open(home) as store:
        assert [(d.namespace, d.name, d.version) for d in store.documents()] == [
            ("default", "mill", 2),
            ("default", "tower", 1),
            ("other", "tower", 1),
        ]
        assert making.found(store, "The mill grinds barley now.", 1) == [
            "The mill grinds barley now."
        ]
        assert _found_as_of(store, "x", 2) >= {"The mill ground oats."}
        told = [(c.op, c.version) for c in store.history("default", "barn")]
        assert told == [("delete", 1), ("put", 1)]
        assert store.rollback("default", "mill", 1).version == 3
        assert making.add(store, "new", "words", seed=9).seq == 8
        assert set(store.read_tensors("start")) == {"theta", "alpha"}
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []
    with making.make(tmp_path / "new") as fresh, Store.open(home) as migrated:
        assert _columns(migrated) == _columns(fresh)
        assert migrated.catalog.info()["format"] == str(FORMAT)


@pytest.mark.sqlite
def test_a_home_of_the_second_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """Format 2 opens with all it held; its index, made of other texts, is built anew from SQL."""
    home = tmp_path / "old"
    shutil.copytree(HOMES / "format_2", home)
    with pytest.raises(Mismatch, match="older format 2"):
        Store.open(home, read_only=True)
    with Store.open(home) as store:
        assert [(d.namespace, d.name, d.version) for d in store.documents()] == [
            ("default", "mill", 3),
            ("default", "tower", 1),
            ("default", "view", 1),
            ("other", "tower", 1),
            ("other", "well", 1),
        ]
        delta = store.deltas(store.document("default", "mill").id)[0]
        assert (delta.own, delta.loss_shifted, delta.flag, delta.damaged) == (True, None, "", False)
        assert (delta.loss_before, delta.loss_after) == (2.0, 1.5)
        words = [hit.passage.document for hit in store.search_text("default", "grain water", 5)]
        assert words == ["mill"]
        words = [hit.passage.document for hit in store.search_text("other", "water", 5)]
        assert words == ["well"]
        assert [f for f in check(store, deep=True) if f.severity != "note"] == []
        assert store.delete("default", ["tower"]) == 1
        assert [d.name for d in store.documents("default")] == ["mill"]
    with making.make(tmp_path / "new") as fresh, Store.open(home) as migrated:
        assert _columns(migrated) == _columns(fresh)


def _columns(store: Store) -> dict[str, set[tuple[str, bool]]]:
    with store.sessions.reading() as session:
        found = inspect(session.connection())
        return {
            table: {(c["name"], bool(c["nullable"])) for c in found.get_columns(table)}
            for table in found.get_table_names()
        }


def test_a_passage_altered_in_the_catalog_is_never_returned(tmp_path: Path) -> None:
    """Text or vector bytes that fail their checksum are passed over; the others are found."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha words")
        making.add(store, "b", "beta words", seed=1)
        making.add(store, "c", "gamma words", seed=2)
        store.apply_outbox()
    another = "(SELECT vector FROM passage WHERE text = 'gamma words')"
    making.alter(
        tmp_path,
        "UPDATE passage SET text = 'other words' WHERE text = 'alpha words'",
        f"UPDATE passage SET vector = {another} WHERE text = 'beta words'",
    )
    with Store.open(tmp_path) as store:
        assert set(making.found(store, "gamma words")) == {"gamma words"}
        hits = store.search_text("default", "words", 10)
        assert {hit.passage.text for hit in hits} <= {"gamma words", "beta words"}


def test_what_was_derived_from_any_version_goes_with_the_name(tmp_path: Path) -> None:
    """Deleting reaches children of replaced parents and replaced children, and nothing besides."""
    with making.make(tmp_path) as store:
        old = store.deltas(making.add(store, "a", "alpha").id)[0].id
        making.add(store, "of the old one", "both", seed=1, parents=(old,))
        making.add(store, "replaced", "derived then", seed=2, parents=(old,))
        making.add(store, "replaced", "independent now", seed=3)
        making.add(store, "a", "alpha two", seed=4)
        store.delete("default", ["a"])
        assert [d.name for d in store.documents()] == ["replaced"]
        with pytest.raises(NotFound):
            store.document("default", "replaced@1")
        with pytest.raises(NotFound):
            store.rollback("default", "replaced", 1)
        with pytest.raises(NotFound):
            store.rollback("default", "of the old one", 1)


def test_a_damaged_name_of_a_fact_is_a_clear_error(tmp_path: Path) -> None:
    """A store whose own facts can't be read says that its catalog is damaged."""
    making.make(tmp_path).close()
    flipped = "UPDATE store_info SET name = 'x' WHERE name = 'recipe_fingerprint'"
    making.alter(tmp_path, flipped)
    with pytest.raises(Corrupt) as caught:
        Store.open(tmp_path)
    assert caught.value.code == "catalog"
    assert "recipe_fingerprint" in caught.value.message
