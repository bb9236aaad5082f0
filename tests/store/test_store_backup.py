"""Backups are whole, of one moment, and homes of their own."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import store_making as making
from filelock import FileLock

from adapterdb.errors import Exists, InvalidInput, Locked, Mismatch, NotFound
from adapterdb.store import Store, check
from adapterdb.store.folders import Folders
from adapterdb.store.migrations import FORMAT
from adapterdb.store.upkeep import backup as copying
from adapterdb.store.upkeep.backup import backup, restore

OLD_HOME = Path(__file__).parent / "homes" / "format_1"


def filled(folder: Path) -> Store:
    """A store with two namespaces, an old version, a deleted document and a shared start."""
    store = making.make(folder)
    making.add(store, "a", "first words", "second words", metadata={"year": 1874, "tag": ["x"]})
    making.add(store, "a", "changed words", seed=1)
    making.add(store, "b", "other words", seed=2)
    making.add(store, "c", "far words", namespace="elsewhere", seed=3)
    store.apply_outbox()
    store.delete("default", ["b"])
    store.write_tensors("start", {"theta": making.rows(1)})
    (folder / "adapterdb.toml").write_text('base = "mini"\n', encoding="utf-8")
    (folder / "recipe.toml").write_text('kind = "delta"\n', encoding="utf-8")
    return store


def flip(path: Path, at: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def weight_file(store: Store, name: str) -> Path:
    """The file with the first delta of a document."""
    delta = store.deltas(store.document("default", name).id)[0]
    return store.weights.path(store.rows_of([delta.id])[0].file)


def test_a_backup_is_a_home(tmp_path: Path) -> None:
    """What was stored is found in it, versions and tensors too; the index builds itself."""
    with filled(tmp_path / "home") as store:
        report = backup(store, tmp_path / "copy")
        documents = store.documents()
        assert report.problems == ()
        assert (report.documents, report.deltas, report.files) == (2, 2, 5)
        with Store.open(tmp_path / "copy") as copy:
            assert copy.documents() == documents
            assert copy.document("default", "a@1").version == 1
            assert copy.read_tensors("start")["theta"].equal(making.rows(1))
            assert making.found(copy, "changed words", 1) == ["changed words"]
            assert making.found(copy, "x", namespace="elsewhere") == ["far words"]
            assert copy.search_text("default", "other", 3) == []
            assert copy.outbox.indexed() == {"default": 1, "elsewhere": 1}
            assert check(copy, deep=True) == []
            making.add(copy, "new", "new words", seed=9)
    assert (tmp_path / "copy" / "adapterdb.toml").read_text() == 'base = "mini"\n'
    assert (tmp_path / "copy" / "recipe.toml").read_text() == 'kind = "delta"\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "home"]


def test_a_backup_opened_for_reading_answers(tmp_path: Path) -> None:
    """Before it has an index of its own."""
    with filled(tmp_path / "home") as store:
        backup(store, tmp_path / "copy")
    with Store.open(tmp_path / "copy", read_only=True) as copy:
        assert making.found(copy, "changed words", 1) == ["changed words"]


def test_a_backup_is_of_one_moment_while_writers_run(tmp_path: Path) -> None:
    """Exactly the documents up to its number are in it, each whole."""
    with making.make(tmp_path / "home") as store:
        stop = threading.Event()
        committed: list[int] = []

        def write() -> None:
            while not stop.is_set():
                i = len(committed)
                committed.append(making.add(store, f"d{i}", f"one {i}", f"two {i}", seed=i).seq)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while len(committed) < 5:
                stop.wait(0.01)
            reports = [backup(store, tmp_path / f"copy{i}") for i in range(3)]
        finally:
            stop.set()
            writer.join()
    assert reports[0].seq >= 5
    for i, report in enumerate(reports):
        assert report.problems == ()
        with Store.open(tmp_path / f"copy{i}") as copy:
            copy.apply_outbox()
            assert check(copy, deep=True) == []
            seqs = sorted(document.seq for document in copy.documents(limit=10**6))
        assert seqs == [seq for seq in committed if seq <= report.seq]


def test_a_damaged_file_is_named_and_the_rest_is_copied(tmp_path: Path) -> None:
    """A flipped bit costs its own row; the problem names its delta, for a restore too."""
    with making.make(tmp_path / "home") as store:
        stored = making.add(store, "a", "one", "two")
        good, bad = store.deltas(stored.id)
        flip(weight_file(store, "a"))
        (problem,) = backup(store, tmp_path / "copy").problems
        assert bad.id in problem
        assert good.id not in problem
    (again,) = restore(tmp_path / "copy", tmp_path / "again").problems
    assert again == problem
    with Store.open(tmp_path / "again") as copy:
        (row,) = copy.rows_of([good.id])
        assert copy.read_row(row).equal(making.rows(2)[0])
        found = {finding.code for finding in check(copy, deep=True)}
        assert found == {"sha_mismatch", "outbox_pending", "bad_row"}


def test_a_lost_file_is_named_and_the_rest_is_copied(tmp_path: Path) -> None:
    """A missing weight file ends no backup."""
    with filled(tmp_path / "home") as store:
        lost = weight_file(store, "a")
        lost.unlink()
        report = backup(store, tmp_path / "copy")
        assert report.files == 4
        (problem,) = report.problems
        assert lost.stem in problem
        assert "left out" in problem


def test_an_altered_text_is_named(tmp_path: Path) -> None:
    """A text that no longer has its sha256 does not pass for the one that was stored."""
    with making.make(tmp_path / "home") as store:
        making.add(store, "a", "one words")
        with store.catalog._sessions.migrating() as connection:
            connection.exec_driver_sql("UPDATE document SET text = 'another'")
        (problem,) = backup(store, tmp_path / "copy").problems
        assert "'a@1'" in problem


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder that holds something, and the home itself, are refused; an empty one is filled."""
    with filled(tmp_path / "home") as store:
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "file").touch()
        with pytest.raises(Exists):
            backup(store, tmp_path / "taken")
        with pytest.raises(InvalidInput):
            backup(store, tmp_path / "home" / "weights" / "copy")
        (tmp_path / "empty").mkdir()
        assert backup(store, tmp_path / "empty").documents == 2


def test_a_copy_exists_only_when_it_is_whole(tmp_path: Path) -> None:
    """One that fails half-way leaves nothing; what a killed one left is replaced by the next."""
    with filled(tmp_path / "home") as store:
        (tmp_path / ".copy.partial").mkdir()
        (tmp_path / ".copy.partial" / "FORMAT").touch()
        backup(store, tmp_path / "copy")
    Folders(tmp_path / "copy").write_format(FORMAT, "another")
    with pytest.raises(Mismatch):
        restore(tmp_path / "copy", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "home"]


def test_backup_waits_for_housekeeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process removes files, nothing is copied."""
    monkeypatch.setattr(copying, "WAIT_S", 0.05)
    with filled(tmp_path / "home") as store:
        with FileLock(store.paths.locks / "housekeeping.lock"), pytest.raises(Locked):
            backup(store, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


def test_restore_makes_a_home_of_its_own(tmp_path: Path) -> None:
    """What was in the backup is in the new home, and ids count on."""
    with filled(tmp_path / "home") as store:
        documents = store.documents()
        report = backup(store, tmp_path / "copy")
    shutil.rmtree(tmp_path / "home")
    again = restore(tmp_path / "copy", tmp_path / "home")
    assert (again.seq, again.files, again.problems) == (report.seq, report.files, ())
    with Store.open(tmp_path / "home") as store:
        assert store.documents() == documents
        new = making.add(store, "new", "new words", seed=9)
        assert new.id > max(document.id for document in documents)
        assert new.seq > report.seq
    with pytest.raises(Exists):
        restore(tmp_path / "copy", tmp_path / "home")
    with pytest.raises(NotFound):
        restore(tmp_path, tmp_path / "another")


def test_restore_brings_an_older_backup_up_to_date(tmp_path: Path) -> None:
    """A backup of an earlier format is only read; the new home has today's."""
    before = {path: path.read_bytes() for path in OLD_HOME.rglob("*") if path.is_file()}
    restore(OLD_HOME, tmp_path / "home")
    assert before == {path: path.read_bytes() for path in OLD_HOME.rglob("*") if path.is_file()}
    with Store.open(tmp_path / "home") as store:
        assert store.documents()
        store.apply_outbox()
        assert check(store, deep=True) == []


def test_restore_refuses_a_catalog_in_use(tmp_path: Path) -> None:
    """A database behind a URL that holds a store keeps it."""
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with filled(tmp_path / "home") as store:
        backup(store, tmp_path / "copy")
    assert restore(tmp_path / "copy", tmp_path / "first", catalog_url=url).documents == 2
    with Store.open(tmp_path / "first", catalog_url=url) as store:
        assert making.found(store, "changed words", 1) == ["changed words"]
    with pytest.raises(Exists):
        restore(tmp_path / "copy", tmp_path / "second", catalog_url=url)
    assert not (tmp_path / "second").exists()
