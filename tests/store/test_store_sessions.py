"""Transactions: one state while reading, what SQLite's files need, forks, disks that fail."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import store_making as making
from sqlalchemy import func, select

from adapterdb.errors import InvalidInput, StorageFailed
from adapterdb.store import Store, check
from adapterdb.store.filesystems import network_type, refuse_network
from adapterdb.store.tables import DocumentTable


def test_a_reading_transaction_sees_one_state(tmp_path: Path) -> None:
    """What is committed meanwhile is not seen until the next transaction."""
    count = select(func.count()).select_from(DocumentTable)
    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        making.add(store, "a", "alpha")
        with other.sessions.reading() as session:
            assert session.scalar(count) == 1
            making.add(store, "b", "beta", seed=1)
            assert session.scalar(count) == 1
        with other.sessions.reading() as session:
            assert session.scalar(count) == 2


def test_a_writer_sees_what_was_committed_before_it_was_let_in(tmp_path: Path) -> None:
    """Two stores that replace one document in turns count its versions without a gap."""
    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        for i in range(4):
            made = making.add((store, other)[i % 2], "a", f"text {i}", seed=i)
            assert (made.version, made.seq) == (i + 1, i + 1)


def test_names_sort_by_code_point(tmp_path: Path) -> None:
    """Capitals come first and LIKE minds them, whatever the database's own language."""
    names = ["Zebra", "apple", "Äpfel", "a-b", "ab", "a b"]
    with making.make(tmp_path) as store:
        for i, name in enumerate(names):
            making.add(store, name, name, metadata={"word": name}, namespace=f"{name[0]}x", seed=i)
        for i, name in enumerate(names):
            making.add(store, name, name, metadata={"word": name}, seed=i)
        listed = store.documents("default")
        assert [document.name for document in listed] == sorted(names)
        assert store.namespaces() == sorted({"default", *(f"{name[0]}x" for name in names)})
        assert [d.name for d in store.documents("default", where="word >= 'a'")] == [
            name for name in sorted(names) if name >= "a"
        ]
        assert [d.name for d in store.documents("default", where="title < 'Z'")] == [
            name for name in sorted(names) if name.title() < "Z"
        ]
        found = store.documents("default", where="word LIKE 'A%'")
        assert found == []


# the URL


def test_a_catalog_elsewhere_is_remembered(tmp_path: Path) -> None:
    """An SQLite file outside the home is found again without its URL, with all its settings."""
    file = tmp_path / "elsewhere" / "catalog.db"
    file.parent.mkdir()
    home = tmp_path / "home"
    with Store.create(home, making.INFO, catalog_url=f"sqlite:///{file}") as store:
        making.add(store, "a", "alpha")
    assert not (home / "meta.db").exists()
    with Store.open(home) as store, store.sessions.reading() as session:
        run = session.connection().exec_driver_sql
        assert run("PRAGMA journal_mode").scalar() == "wal"
        assert run("PRAGMA synchronous").scalar() == 2
        assert [document.name for document in store.documents()] == ["a"]


@pytest.mark.parametrize(
    "url",
    [
        "canary",
        "postgresql://user:canary@host:canary/db",
        "postgresql://user:secret@canary@host/db",
        "mysql://user:canary@host/db",
        "sqlite:///:memory:",
        "sqlite://",
    ],
)
def test_a_url_that_is_refused_is_not_repeated(tmp_path: Path, url: str) -> None:
    """Half a password may stand anywhere in a URL that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        Store.create(tmp_path / "home", making.INFO, catalog_url=url)
    assert caught.value.code == "bad_catalog_url"
    assert "canary" not in f"{caught.value} {caught.value.hint} {caught.getrepr(style='short')}"
    assert not (tmp_path / "home").exists()


# SQLite's files


class Mount(NamedTuple):
    """A mounted file system as psutil tells it."""

    mountpoint: str
    fstype: str


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    """The innermost, latest mount decides; below a network mount a local one is fine."""
    mounts = [
        Mount("/", "ext4"),
        Mount("/net", "nfs4"),
        Mount("/net/local", "xfs"),
        Mount("/far", "ext4"),
        Mount("/far", "fuse.sshfs"),
        Mount("/own", "fuse.ntfs"),
    ]
    local = ("/home/meta.db", "/net/local/meta.db", "/network/meta.db", "/own/meta.db")
    assert [network_type(Path(path), mounts) for path in local] == [None] * 4
    assert network_type(Path("/net/home/meta.db"), mounts) == "nfs4"
    with pytest.raises(StorageFailed) as caught:
        refuse_network(Path("/far/home/meta.db"), mounts)
    assert caught.value.code == "network_file_system"
    assert "sshfs" in caught.value.message
    assert "PostgreSQL" in caught.value.hint
    assert network_type(tmp_path) is None, "the tests run on a local disk"


@pytest.mark.sqlite
@pytest.mark.parametrize("left", ["log", "log and shared memory", "nothing"])
def test_a_file_system_without_writing_can_be_read(
    mounted: Callable[[str], Path], left: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a read-only mount the store answers and is checked, also from a log left by a crash."""
    home = mounted("rw") / "home"
    with making.make(tmp_path / "home") as store:
        making.add(store, "d", "some words")
        if left != "nothing":  # as a crash now would leave it
            shutil.copytree(tmp_path / "home", home)
            assert (home / "meta.db-wal").stat().st_size > 0
    if left == "nothing":
        shutil.copytree(tmp_path / "home", home)
    elif left == "log":
        (home / "meta.db-shm").unlink()
    mounted("ro")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with Store.open(home, read_only=True) as store:
        assert len(list(scratch.iterdir())) == (left == "log")
        assert making.found(store, "some words") == ["some words"]
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []
        with pytest.raises(StorageFailed) as caught:
            making.add(store, "e", "more")
        assert caught.value.code == "read_only"
    assert list(scratch.iterdir()) == []
    with pytest.raises(StorageFailed) as refused, Store.open(home) as store:
        making.add(store, "e", "more")
    assert refused.value.code in ("read_only", "cannot_open")


@pytest.mark.sqlite
def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path) -> None:
    """A write that the system fails stops all writing, not reading, until the store is reopened."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha")
        kept = making.new(store, "b", "beta", seed=1)
        log = tmp_path / "meta.db-wal"
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # files may not grow: the system then fails the write with an error that is no full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, before[1]))
        try:
            with pytest.raises(StorageFailed) as caught:
                store.commit([kept])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert caught.value.code == "io"
        for change in (lambda: store.commit([kept]), lambda: store.delete("default", ["a"])):
            with pytest.raises(StorageFailed) as refused:
                change()
            assert refused.value.code == "needs_recovery"
        assert [document.name for document in store.documents()] == ["a"]
        assert making.found(store, "alpha") == ["alpha"]
    with Store.open(tmp_path) as store:
        assert making.add(store, "b", "beta", seed=1).version == 1
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []


def test_a_failure_of_another_file_stops_writing_too(tmp_path: Path) -> None:
    """What is guarded fails with an input/output error: no more is written. Full disks may heal."""
    with making.make(tmp_path) as store:
        for code in ("disk_full", "io"):
            with pytest.raises(StorageFailed, match="nope"), store.sessions.guarded():
                raise StorageFailed("nope", code=code)
            if code == "disk_full":
                making.add(store, "a", "alpha")
        with pytest.raises(StorageFailed) as caught:
            making.add(store, "b", "beta", seed=1)
        assert caught.value.code == "needs_recovery"


# forks

FORKING = """
import os, sys
from pathlib import Path
from adapterdb.errors import AdapterDBError
from adapterdb.store import Store
from adapterdb.store.upkeep.stats import measure

store = Store.open(Path(sys.argv[1]))
assert len(store.documents()) == 1
child = os.fork()
if child == 0:
    codes = set()
    uses = (
        store.documents,
        lambda: measure(store),
        store.apply_outbox,
        store.namespaces,
        lambda: store.document("default", "a"),
        lambda: store.delete("default", ["a"]),
        lambda: store.moment(1),
        store.sessions.vacuum,
    )
    for i, use in enumerate(uses):
        try:
            use()
            codes.add(f"use {i} worked")
        except AdapterDBError as error:
            codes.add(error.code)
    store.sessions.close()
    print(*codes, file=sys.stderr, flush=True)
    os._exit(0 if codes == {"forked"} else 1)
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 0, "the child could use the store"
assert len(store.documents()) == 1
assert store.delete("default", ["a"]) == 1
store.close()
"""


def test_a_forked_child_is_refused_and_its_parent_goes_on(tmp_path: Path) -> None:
    """Every method says ``forked`` in the child, and closing there leaves the parent's store be."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha")
    path = os.pathsep.join([str(Path(making.__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with Store.open(tmp_path) as store:
        assert store.documents() == []


@pytest.mark.sqlite
def test_a_temporary_folder_without_writing_is_a_storage_error(
    mounted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the catalog can't be copied for reading the error says so."""
    home = mounted("rw") / "home"
    store = making.make(home)
    making.add(store, "d", "some words")
    copied = home.parent / "copy"
    shutil.copytree(home, copied, ignore=shutil.ignore_patterns("*-shm"))
    store.close()
    mounted("ro")
    monkeypatch.setattr(tempfile, "tempdir", str(copied))
    with pytest.raises(StorageFailed) as caught:
        Store.open(copied, read_only=True)
    assert caught.value.code == "read_only"
