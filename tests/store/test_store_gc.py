"""Collecting garbage: what retention lets go of and what nothing names goes, and nothing else."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import store_making as making
from test_store_commit import FORKS

from adapterdb.config import RetentionConfig
from adapterdb.errors import InvalidInput, Locked, NotFound, StorageFailed
from adapterdb.store import Store, check
from adapterdb.store.upkeep.gc import collect

NOTHING = RetentionConfig(versions=0, days=0, deleted_days=0)


def test_by_default_no_version_is_collected(tmp_path: Path) -> None:
    """Replaced versions stay for good, deleted ones for a month."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "one")
        making.add(store, "a", "two", seed=1)
        making.add(store, "b", "three", seed=2)
        store.delete("default", ["b"])
        assert collect(store).versions == 0
        assert store.document("default", "a@1").version == 1
        assert store.rollback("default", "b", 1).version == 2


def test_retention_lets_old_versions_go_and_the_past_says_so(tmp_path: Path) -> None:
    """Only the newest replaced versions stay; moments before that are refused, later ones work."""
    with making.make(tmp_path) as store:
        for i, text in enumerate(("one", "two", "three", "four")):
            making.add(store, "a", text, seed=i)
        making.add(store, "b", "other", seed=9)
        keep = RetentionConfig(versions=1)
        planned = collect(store, keep, dry_run=True)
        assert planned.dry_run
        collected = collect(store, keep)
        assert (collected.versions, collected.files) == (2, 2)
        assert planned.versions == 2
        assert collected.size_bytes > 2 * making.P * 2
        with pytest.raises(NotFound):
            store.document("default", "a@2")
        with pytest.raises(NotFound):
            store.rollback("default", "a", 1)
        assert store.document("default", "a@3").version == 3
        assert [(c.version, c.kept) for c in store.history("default", "a")] == [
            (4, True), (3, True), (2, False), (1, False),
        ]  # fmt: skip
        with pytest.raises(InvalidInput) as caught:
            store.moment(2)
        assert caught.value.code == "too_old"
        assert store.moment(3) == 3
        hits = store.search_vectors("default", making.vector("three"), 9, as_of=3)
        assert [hit.passage.text for hit in hits] == ["three"]
        assert making.add(store, "a", "five", seed=20).version == 5
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []


def test_days_are_counted_from_the_replacement(tmp_path: Path) -> None:
    """What was replaced or deleted just now is younger than any number of days but none."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "one")
        making.add(store, "a", "two", seed=1)
        making.add(store, "b", "three", seed=2)
        store.delete("default", ["b"])
        assert collect(store, RetentionConfig(days=1, deleted_days=1)).versions == 0
        time.sleep(0.005)
        assert collect(store, RetentionConfig(days=0, deleted_days=0)).versions == 2
        assert [d.name for d in store.documents()] == ["a"]
        assert making.found(store, "two") == ["two"]


def test_a_file_with_few_rows_in_use_is_written_anew(tmp_path: Path) -> None:
    """The rows that stay keep their bytes; the large file goes."""
    with making.make(tmp_path) as store:
        refs = store.write_rows(making.rows(8))
        fresh = [making.new(store, f"d{i}", f"text {i}") for i in range(8)]
        store.commit([making.on_rows(d, ref) for d, ref in zip(fresh, refs, strict=True)])
        before = store.read_row(refs[7])
        store.delete("default", [f"d{i}" for i in range(7)])
        collected = collect(store, NOTHING)
        assert (collected.versions, collected.rewritten, collected.files) == (7, 1, 1)
        moved = store.passages(store.document("default", "d7").id)[0].row
        assert moved.file != refs[0].file
        assert store.read_row(moved).equal(before)
        assert store.read_row(refs[7]).equal(before)  # found where it is now
        assert collect(store, NOTHING).size_bytes == 0


def _write_and_die(home: str) -> None:
    with Store.open(Path(home)) as store:
        making.new(store, "never", "committed", seed=77)
        os._exit(9)


def test_files_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    """What a killed ingest left is garbage at once; what a running one wrote never is."""
    with making.make(tmp_path) as store:
        pending = making.new(store, "coming", "soon", seed=1)
        child = FORKS.Process(target=_write_and_die, args=(str(tmp_path),))
        child.start()
        child.join(120)
        assert child.exitcode == 9
        assert len(store.weights.names()) == 2
        with Store.open(tmp_path) as other:
            assert collect(other, grace_h=0).leftovers == 1
        assert store.weights.names() == {pending.passages[0].row.file}
        store.commit([pending])
        assert [f.code for f in check(store, deep=True) if f.severity == "error"] == []


def test_a_file_no_one_named_waits_for_the_grace(tmp_path: Path) -> None:
    """A file that nothing ever claimed is left alone until it is old."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "one")
        row = store.passages(store.document("default", "a").id)[0].row
        stray = store.weights.path("ab" * 32)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(store.weights.path(row.file).read_bytes())
        assert collect(store).leftovers == 0
        os.utime(stray, (1, 1))
        assert collect(store).leftovers == 1
        assert not stray.exists()
        assert store.read_row(row) is not None


def test_a_set_aside_index_goes_and_the_one_in_use_stays(tmp_path: Path) -> None:
    """Folders of earlier generations are removed; searches go on."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "one")
        store.apply_outbox()
        store.applier.rebuild("default", 10)
        assert len(list(tmp_path.glob("lance/*/*"))) == 2
        assert collect(store, grace_h=0).leftovers == 1
        assert len(list(tmp_path.glob("lance/*/*"))) == 1
        assert making.found(store, "one") == ["one"]


def test_one_collection_at_a_time_and_none_when_reading_only(tmp_path: Path) -> None:
    """A second collection waits and then says so; a store for reading refuses."""
    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        with store.housekeeping(1), pytest.raises(Locked), other.housekeeping(0.05):
            raise AssertionError("held twice")
        with Store.open(tmp_path, read_only=True) as reader, pytest.raises(StorageFailed):
            collect(reader)
        with pytest.raises(InvalidInput):
            collect(store, grace_h=-1)


def _ingest_and_delete(home: str, seed: int, rounds: int) -> None:
    with Store.open(Path(home)) as store:
        for i in range(rounds):
            name = f"d{(seed + i) % 5}"
            making.add(store, name, f"text of {name}", seed=int(name[1]))
            if i % 3 == 0:
                with suppress(NotFound):  # the other writer was quicker
                    store.delete("default", [f"d{(seed + i) % 5}"])


def test_collecting_beside_writers_of_the_same_texts_loses_nothing(tmp_path: Path) -> None:
    """With grace 0, against processes that write, delete and write again the same bytes."""
    making.make(tmp_path).close()
    writers = [
        FORKS.Process(target=_ingest_and_delete, args=(str(tmp_path), seed, 40)) for seed in (0, 2)
    ]
    for writer in writers:
        writer.start()
    with Store.open(tmp_path) as store:
        while any(writer.is_alive() for writer in writers):
            collect(store, NOTHING, grace_h=0)
        assert [writer.exitcode for writer in writers] == [0, 0]
        collect(store, NOTHING, grace_h=0)
        for document in store.documents():
            for passage in store.passages(document.id):
                assert store.read_row(passage.row) is not None
        assert [f.code for f in check(store, deep=True) if f.severity == "error"] == []


def test_equal_bytes_written_twice_are_claimed_until_the_second_commit(tmp_path: Path) -> None:
    """One writer may write the same rows for two commits; a collection in between takes neither."""
    with making.make(tmp_path) as store:
        first, second = making.new(store, "x", "one", seed=5), making.new(store, "y", "two", seed=5)
        store.commit([first])
        store.delete("default", ["x"])
        collect(store, NOTHING, grace_h=0)
        assert store.commit([second])[0].name == "y"
        assert store.read_row(second.passages[0].row) is not None


def test_the_last_deletion_counts_not_the_latest_time(tmp_path: Path) -> None:
    """After a clock that ran ahead and was set right, a name goes by its last deletion."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "one")
        store.delete("default", ["a"])
        store.rollback("default", "a", 1)
        store.delete("default", ["a"])
    making.alter(tmp_path, "UPDATE change SET at = '2999-01-01T00:00:00.000+00:00' WHERE seq = 2")
    time.sleep(0.005)
    with Store.open(tmp_path) as store:
        assert collect(store, NOTHING).versions == 2
