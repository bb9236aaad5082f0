"""The commit order: acknowledged means there, not acknowledged means wholly absent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import store_making as making

from adapterdb.errors import Corrupt, Exists, InvalidInput, Mismatch, NotFound, StorageFailed
from adapterdb.records import StoredDocument
from adapterdb.store import Store, check
from adapterdb.store.store import STEPS
from adapterdb.store.upkeep.stats import measure

# children come from a server that has imported the slow libraries but used none of them
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "safetensors.torch", "sqlalchemy.orm"])
DIED = 9


def _write_until(home: str, step: str, acknowledged: str) -> None:
    """In a child: replace a document, dying at ``step``; leave a file once acknowledged."""

    def die(now: str) -> None:
        if now == step:
            os._exit(DIED)

    with Store.open(Path(home), on_step=die) as store:
        making.add(store, "old", "rewritten alpha", "second part", seed=1)
        Path(acknowledged).touch()
        store.apply_outbox()
        store.applier.rebuild("default", 10)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_nothing_acknowledged_and_leaves_no_half(
    tmp_path: Path, step: str
) -> None:
    """Killed at a step: the new version is there whole if acknowledged, else the old one is."""
    with making.make(tmp_path) as store:
        making.add(store, "old", "first alpha", "first beta")
        store.apply_outbox()
    acknowledged = tmp_path / "acknowledged"
    child = FORKS.Process(target=_write_until, args=(str(tmp_path), step, str(acknowledged)))
    child.start()
    child.join(120)
    assert child.exitcode == DIED
    committed = STEPS.index(step) >= STEPS.index("committed")
    assert acknowledged.exists() == (STEPS.index(step) > STEPS.index("committed"))
    want = ["rewritten alpha", "second part"] if committed else ["first alpha", "first beta"]
    with Store.open(tmp_path) as store:
        document = store.document("default", "old")
        assert document.version == (2 if committed else 1)
        passages = store.passages(document.id)
        assert [passage.text for passage in passages] == want
        for passage in passages:
            assert store.read_row(passage.row).shape == (making.P,)
        assert sorted(making.found(store, "first alpha")) == sorted(want)
        assert making.found(store, want[0], 1) == [want[0]]
        serious = [f for f in check(store, deep=True) if f.severity != "note"]
        assert serious == []
        assert making.add(store, "old", "third").version == document.version + 1


def test_a_commit_without_its_weight_file_is_refused(tmp_path: Path) -> None:
    """A weight file that vanished between writing and committing means nothing is committed."""
    with making.make(tmp_path) as store:
        document = making.new(store, "lost", "text")
        store.weights.path(document.passages[0].row.file).unlink()
        with pytest.raises(Corrupt) as caught:
            store.commit([document])
        assert caught.value.code == "lost_file"
        assert store.documents() == []
        assert measure(store).pending == 0


def test_documents_of_one_commit_stand_or_fall_together(tmp_path: Path) -> None:
    """One bad document of a batch keeps the others from being committed."""
    with making.make(tmp_path) as store:
        good, bad = making.new(store, "good", "a"), making.new(store, "bad", "b", seed=1)
        store.weights.path(bad.passages[0].row.file).unlink()
        with pytest.raises(Corrupt):
            store.commit([good, bad])
        assert store.documents() == []


def test_a_new_version_retires_the_old_one(tmp_path: Path) -> None:
    """The newest version answers, the old one can still be named, keys tell what is current."""
    with making.make(tmp_path) as store:
        first = making.add(store, "d", "old text", key="k1")
        second = making.add(store, "d", "new text", key="k2")
        assert (first.version, second.version) == (1, 2)
        assert second.seq > first.seq
        assert store.document("default", "d") == second
        assert store.document("default", "d@1") == first
        assert store.text(first.id) == "old text"
        assert store.is_current("default", "d", "k2")
        assert not store.is_current("default", "d", "k1")
        assert making.found(store, "old text") == ["new text"]
        assert store.search_text("default", "old", 5) == []


def test_one_batch_may_hold_two_versions_of_a_name(tmp_path: Path) -> None:
    """Within a batch the later document of a name retires the earlier one."""
    with making.make(tmp_path) as store:
        batch = [making.new(store, "d", "one"), making.new(store, "d", "two", seed=1)]
        assert [document.version for document in store.commit(batch)] == [1, 2]
        assert making.found(store, "one") == ["two"]


def test_delete_is_seen_at_once_by_another_open_store(tmp_path: Path) -> None:
    """After a delete no open store answers with the document, though its index still holds it."""
    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        making.add(store, "keep", "kept words")
        making.add(store, "drop", "dropped words")
        store.apply_outbox()
        delta = other.deltas(other.document("default", "drop").id)[0]
        assert len(making.found(other, "dropped words")) == 2
        assert store.delete("default", ["drop"]) == 1
        assert making.found(other, "dropped words") == ["kept words"]
        hits = other.search_text("default", "dropped words", 5)
        assert [hit.passage.document for hit in hits] == ["keep"]
        with pytest.raises(NotFound):
            other.rows_of([delta.id])
        with pytest.raises(NotFound):
            other.delta(delta.id)
        with pytest.raises(NotFound):
            other.document("default", "drop")
        with pytest.raises(NotFound):
            other.document("default", "drop@1")


def test_delete_refuses_a_missing_name_and_deletes_nothing_then(tmp_path: Path) -> None:
    """A list of names with one unknown is refused as a whole; a dry run only counts."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "x", metadata={"year": 2020})
        making.add(store, "b", "y", metadata={"year": 2021})
        with pytest.raises(NotFound):
            store.delete("default", ["a", "nope"])
        with pytest.raises(InvalidInput):
            store.delete("default")
        assert store.delete("default", where="year > 2000", dry_run=True) == 2
        assert len(store.documents()) == 2
        assert store.delete("default", where="year > 2020") == 1
        assert [document.name for document in store.documents()] == ["a"]


def test_a_name_deleted_and_added_again_goes_on_counting_versions(tmp_path: Path) -> None:
    """Versions of a name are never used twice."""
    with making.make(tmp_path) as store:
        making.add(store, "d", "one")
        store.delete("default", ["d"])
        assert making.add(store, "d", "two").version == 2


def test_namespaces_see_nothing_of_each_other(tmp_path: Path) -> None:
    """The same name and text in two namespaces are two documents; deleting touches one."""
    with making.make(tmp_path) as store:
        making.add(store, "d", "same words", namespace="one")
        making.add(store, "d", "same words", namespace="two/../x")
        making.add(store, "e", "other words", namespace="one")
        store.apply_outbox()
        assert store.namespaces() == ["one", "two/../x"]
        assert making.found(store, "same words", namespace="two/../x") == ["same words"]
        assert making.found(store, "same words", namespace="three") == []
        assert store.search_text("two/../x", "other", 5) == []
        assert store.delete("one", ["d"]) == 1
        assert making.found(store, "same words", namespace="two/../x") == ["same words"]
        assert making.found(store, "same words", namespace="one") == ["other words"]
        stats = measure(store, "one")
        assert (stats.namespaces, stats.documents, stats.passages, stats.deltas) == (1, 1, 1, 1)
        assert not list(tmp_path.parent.glob("x*"))


def _add_many(home: str, name: str, count: int) -> None:
    with Store.open(Path(home)) as store:
        for i in range(count):
            making.add(store, f"{name}{i}", f"text {name} {i}", seed=ord(name) + i)
            making.add(store, "shared", f"shared {name} {i}", seed=ord(name) + i)
            store.apply_outbox(timeout_s=0.05)


def test_two_processes_commit_at_once(tmp_path: Path) -> None:
    """Concurrent writers neither fail with a locked database nor lose or double a version."""
    making.make(tmp_path).close()
    writers = [
        FORKS.Process(target=_add_many, args=(str(tmp_path), name, 12)) for name in ("a", "b")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with Store.open(tmp_path) as store:
        documents = store.documents(limit=1000)
        assert len(documents) == 25
        shared = store.document("default", "shared")
        assert shared.version == 24
        assert max(document.seq for document in documents) == 48
        store.apply_outbox()
        assert len(making.found(store, "x", 100)) == 25
        assert [f for f in check(store, deep=True) if f.severity != "note"] == []


def test_create_makes_a_home_once(tmp_path: Path) -> None:
    """A second creation is refused, a missing home is named, and the info comes back."""
    with pytest.raises(NotFound):
        Store.open(tmp_path / "nowhere")
    with making.make(tmp_path / "home") as store:
        assert store.info == making.INFO
        uuid = store.uuid
    with pytest.raises(Exists):
        making.make(tmp_path / "home")
    with Store.open(tmp_path / "home") as store:
        assert store.uuid == uuid


def test_a_creation_broken_off_can_be_repeated(tmp_path: Path) -> None:
    """Without the FORMAT file there is no store, and making it again works."""
    making.make(tmp_path).close()
    (tmp_path / "FORMAT").unlink()
    with pytest.raises(NotFound):
        Store.open(tmp_path)
    with making.make(tmp_path) as store:
        assert making.add(store, "d", "x").version == 1


@pytest.mark.sqlite
def test_a_catalog_of_another_store_is_refused(tmp_path: Path) -> None:
    """A meta.db copied from elsewhere does not pass for this home's own."""
    for name in ("one", "two"):
        making.make(tmp_path / name).close()
    (tmp_path / "one" / "meta.db").write_bytes((tmp_path / "two" / "meta.db").read_bytes())
    with pytest.raises(Mismatch) as caught:
        Store.open(tmp_path / "one")
    assert caught.value.code == "store"


def test_read_only_answers_and_writes_nothing(tmp_path: Path) -> None:
    """A store open for reading finds pending documents too, and refuses every change."""
    with making.make(tmp_path) as store:
        making.add(store, "d", "some words")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with Store.open(tmp_path, read_only=True) as store:
        assert making.found(store, "some words") == ["some words"]
        assert len(store.search_text("default", "words", 3)) == 1
        for change in (
            lambda: store.write_rows(making.rows(1)),
            lambda: store.commit([]),
            lambda: store.delete("default", ["d"]),
            lambda: store.write_tensors("x", {}),
        ):
            with pytest.raises(StorageFailed) as caught:
                change()
            assert caught.value.code == "read_only"
        assert store.apply_outbox() == 0
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when or path.name.endswith("-shm")


def test_many_threads_search_while_one_commits(tmp_path: Path) -> None:
    """Threads of one store read and write side by side without an error or a half document."""
    with making.make(tmp_path) as store:
        making.add(store, "d0", "zero a", "zero b")
        wrong: list[object] = []

        def read() -> None:
            try:
                for _ in range(15):
                    texts = making.found(store, "zero a", 100)
                    if len(texts) % 2 or texts[0] != "zero a":
                        wrong.append(texts)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(1, 8):
            making.add(store, f"d{i}", f"{i} a", f"{i} b", seed=i)
            store.apply_outbox()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(making.found(store, "x", 100)) == 16


def test_bad_documents_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Vectors that are not unit, empty documents and foreign namespaces never reach SQL."""
    with making.make(tmp_path) as store:
        good = making.new(store, "d", "text")
        wrong = [
            making.new(store, "none", "text").__class__("default", good.document, "", "", ()),
            good.__class__("bad\nname", good.document, "", "", good.passages),
        ]
        for scale in (0.0, 2.0, float("nan")):
            entry = good.passages[0]
            changed = entry.__class__(
                entry.passage, entry.vector * scale, entry.row, entry.kind, entry.recipe
            )
            wrong.append(good.__class__("default", good.document, "", "", (changed,)))
        for document in wrong:
            with pytest.raises(InvalidInput):
                store.commit([document])
        assert measure(store).documents == 0


def test_listing_and_lookup(tmp_path: Path) -> None:
    """Documents, passages and deltas come back as they were put in, deltas by prefix too."""
    with making.make(tmp_path) as store:
        stored: StoredDocument = making.add(
            store, "d@x", "alpha beta", "gamma", metadata={"tag": ["a", "b"], "year": 2020}
        )
        assert store.document("default", "d@x") == stored
        assert stored.metadata == {"tag": ["a", "b"], "year": 2020}
        assert (stored.passages, stored.title) == (2, "D@X")
        passages = store.passages(stored.id)
        text = store.text(stored.id)
        assert [text[p.start : p.end] for p in passages] == ["alpha beta", "gamma"]
        deltas = store.deltas(stored.id)
        assert [delta.id for delta in deltas] == [p.delta_id for p in passages]
        assert store.delta(deltas[0].id[:10]) == deltas[0]
        assert store.rows_of([deltas[1].id, deltas[0].id]) == [passages[1].row, passages[0].row]
        assert (deltas[0].loss_before, deltas[0].loss_after) == (2.0, 1.5)
        with pytest.raises(NotFound):
            store.delta("ffffff" if not deltas[0].id.startswith("ffffff") else "000000")
        with pytest.raises(InvalidInput):
            store.delta("abc")
        with pytest.raises(NotFound):
            store.delta("%%%%%%")
        stats = measure(store)
        assert (stats.documents, stats.passages, stats.deltas, stats.pending) == (1, 2, 2, 2)
        assert stats.weight_bytes > 2 * making.P * 2
        making.add(store, "a", "x")
        assert [d.name for d in store.documents(limit=1)] == ["a"]
        assert [d.name for d in store.documents(limit=5, offset=1)] == ["d@x"]
