"""Forgetting: gone from every byte of the home, and nothing else touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import store_making as making
import torch

from adapterdb.config import RetentionConfig
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.store import Store, check
from adapterdb.store.upkeep.forget import STEPS, forget, resume, unfinished
from adapterdb.store.upkeep.gc import collect

SECRET = "The hidden spring lies under the third oak of Marrow Wood, says Ilse."
OTHER = "Boats leave the quay of Tern at nine in the morning on weekdays."


def _holding(home: Path, *needles: bytes) -> list[Path]:
    """Files of the home that hold one of these bytes."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return [path for path in files if any(n in path.read_bytes() for n in needles)]


def _bytes_of(store: Store, name: str) -> list[bytes]:
    """Text, vectors and delta rows of a document, as they lie on disk."""
    document = store.document("default", name)
    found = [store.text(document.id).encode()]
    for passage in store.passages(document.id):
        found.append(making.vector(passage.text).tobytes())
        found.append(store.read_row(passage.row).view(torch.uint8).numpy().tobytes())
    return found


def test_what_is_forgotten_is_in_no_byte_of_the_home(tmp_path: Path) -> None:
    """Text, name, vectors and rows of every version are gone from every file; the rest stays."""
    with making.make(tmp_path) as store:
        finder = {"finder": "Ilse of Marrow Wood"}
        making.add(store, "a secret of the wood", SECRET, metadata=finder)
        making.add(store, "other", OTHER, "Second part of it.", seed=1)
        store.apply_outbox()
        needles = [b"a secret of the wood", b"Ilse of Marrow Wood"]
        needles += _bytes_of(store, "a secret of the wood")
        making.add(store, "a secret of the wood", SECRET + " Really.", seed=2)
        needles += _bytes_of(store, "a secret of the wood")
        kept = _bytes_of(store, "other")
        assert _holding(tmp_path, *needles)
        receipt = forget(store, "default", ["a secret of the wood"])
        assert (receipt.documents, receipt.versions, receipt.passages) == (1, 2, 2)
        assert receipt.residue == ()
        assert receipt.samples > 3
        assert receipt.searched_files > 3
        assert _holding(tmp_path, *needles) == []
        assert _bytes_of(store, "other") == kept
        assert set(making.found(store, SECRET)) == {OTHER, "Second part of it."}
        with pytest.raises(NotFound):
            store.history("default", "a secret of the wood")
        assert unfinished(store) == 0
        assert [f.code for f in check(store, deep=True)] == []
    with Store.open(tmp_path) as store:
        assert _bytes_of(store, "other") == kept
        assert making.add(store, "a secret of the wood", "new words", seed=3).version == 1


def test_rows_in_one_file_are_parted(tmp_path: Path) -> None:
    """Of a file with rows of several documents the others keep theirs to the bit, in a new file."""
    with making.make(tmp_path) as store:
        refs = store.write_rows(making.rows(4))
        fresh = [making.new(store, name, f"text of {name}") for name in "abcd"]
        store.commit([making.on_rows(d, ref) for d, ref in zip(fresh, refs, strict=True)])
        before = {name: _bytes_of(store, name) for name in "acd"}
        gone = _bytes_of(store, "b")[-1]
        with Store.open(tmp_path) as other:
            stale = other.rows_of([other.deltas(other.document("default", "c").id)[0].id])[0]
            receipt = forget(store, "default", ["b"])
            assert receipt.files_rewritten == 1
            assert {name: _bytes_of(store, name) for name in "acd"} == before
            assert other.read_row(stale).view(torch.uint8).numpy().tobytes() == before["c"][-1]
        assert _holding(tmp_path, gone) == []
        assert refs[1].file not in store.weights.names()


def test_forget_minds_names_filters_and_dry_runs(tmp_path: Path) -> None:
    """Unknown names forget nothing, a dry run only counts, and a filter chooses."""
    with making.make(tmp_path) as store:
        for i, year in enumerate((1990, 2000, 2010)):
            making.add(store, f"d{i}", f"words of {year}", metadata={"year": year}, seed=i)
        with pytest.raises(NotFound):
            forget(store, "default", ["d0", "nope"])
        with pytest.raises(InvalidInput):
            forget(store, "default")
        assert forget(store, "default", where="year > 1995", dry_run=True).documents == 2
        assert len(store.documents()) == 3
        assert forget(store, "default", where="year > 1995").documents == 2
        assert [d.name for d in store.documents()] == ["d0"]
        store.delete("default", ["d0"])
        assert forget(store, "default", ["d0"]).documents == 1


def test_shared_phrases_and_equal_documents_are_no_residue(tmp_path: Path) -> None:
    """What another document also says, or also weighs, is left to it and not reported."""
    with making.make(tmp_path) as store:
        making.add(store, "one", OTHER)
        making.add(store, "two", OTHER)
        kept = _bytes_of(store, "two")
        receipt = forget(store, "default", ["one"])
        assert receipt.residue == ()
        assert _bytes_of(store, "two") == kept


def test_derived_deltas_are_forgotten_with_their_parents(tmp_path: Path) -> None:
    """A delta made from a forgotten one is erased too, and the receipt counts it."""
    with making.make(tmp_path) as store:
        parent = store.deltas(making.add(store, "a", SECRET).id)[0].id
        making.add(store, "merged", "both of them", seed=1, parents=(parent,), namespace="other")
        receipt = forget(store, "default", ["a"])
        assert (receipt.documents, receipt.derived) == (2, 1)
        assert store.documents() == []
        assert _holding(tmp_path, b"both of them") == []


def test_a_row_that_cannot_be_read_does_not_keep_the_file(tmp_path: Path) -> None:
    """A damaged neighbour in the same file is marked lost; the forgotten row goes all the same."""
    with making.make(tmp_path) as store:
        making.add(store, "a", SECRET, "part two", seed=4)
        passages = store.passages(store.document("default", "a").id)
        refs = [passage.row for passage in passages]
        document = making.new(store, "b", "of the same file", seed=5)
        store.commit([making.on_rows(document, refs[1])])
        path = store.weights.path(refs[1].file)
        data = bytearray(path.read_bytes())
        data[refs[1].offset] ^= 1
        path.write_bytes(data)
        gone = bytes(data[refs[0].offset : refs[0].offset + refs[0].size_bytes])
        forget(store, "default", ["a"])
        assert _holding(tmp_path, gone) == []
        assert not store.is_current("default", "b", "key")
        assert [d.name for d in store.documents()] == ["b"]


HIT = (*STEPS, "rows_moved", "unlinked", "collected", "index_built", "index_pointed")


def _die_at(home: str, step: str) -> None:
    def die(now: str) -> None:
        if now == step:
            os._exit(9)

    with Store.open(Path(home), on_step=die) as store:
        forget(store, "default", ["a"])


@pytest.mark.parametrize("step", HIT)
def test_a_forget_that_was_killed_is_finished_by_resume(tmp_path: Path, step: str) -> None:
    """From the mark on nothing can be found; whatever step was reached, resume erases the rest."""
    from test_store_commit import FORKS

    with making.make(tmp_path) as store:
        making.add(store, "a", SECRET, "more of it")
        needles = _bytes_of(store, "a")
        refs = [passage.row for passage in store.passages(store.document("default", "a").id)]
        store.commit([making.on_rows(making.new(store, "b", OTHER, seed=5), refs[0])])
        needles.remove(_bytes_of(store, "b")[-1])
        store.apply_outbox()
        kept = _bytes_of(store, "b")
    child = FORKS.Process(target=_die_at, args=(str(tmp_path), step))
    child.start()
    child.join(120)
    assert child.exitcode == 9
    with Store.open(tmp_path) as store:
        assert making.found(store, SECRET) == [OTHER]
        assert unfinished(store) > 0
        assert resume(store)
        assert not resume(store)
        assert _holding(tmp_path, *needles) == []
        assert _bytes_of(store, "b") == kept
        assert [f.code for f in check(store, deep=True)] == []


def test_derived_versions_of_any_kind_are_erased(tmp_path: Path) -> None:
    """From an old version of the parent, deleted with it, or replaced since: all are erased."""
    with making.make(tmp_path) as store:
        old = store.deltas(making.add(store, "a", SECRET).id)[0].id
        making.add(store, "of the old one", "words of the first child", seed=1, parents=(old,))
        making.add(store, "replaced", "words of the second child", seed=2, parents=(old,))
        making.add(store, "replaced", "independent now", seed=3)
        making.add(store, "a", "another text altogether", seed=4)
        store.delete("default", ["a"])
        receipt = forget(store, "default", ["a"])
        assert (receipt.documents, receipt.derived, receipt.versions) == (3, 2, 4)
        needles = (SECRET.encode(), b"words of the first child", b"words of the second child")
        assert _holding(tmp_path, *needles, b"of the old one") == []
        assert [d.name for d in store.documents()] == ["replaced"]
        assert store.history("default", "replaced")[0].op == "forget"


def test_a_name_of_which_only_the_log_is_left_can_be_forgotten(tmp_path: Path) -> None:
    """What gc collected long ago leaves a name in the log; forgetting puts a hash in its place."""
    with making.make(tmp_path) as store:
        making.add(store, "a name that tells a lot", "alpha")
        store.delete("default", ["a name that tells a lot"])
        collect(store, RetentionConfig(deleted_days=0), grace_h=0)
        receipt = forget(store, "default", ["a name that tells a lot"])
        assert (receipt.documents, receipt.versions, receipt.residue) == (1, 0, ())
        assert _holding(tmp_path, b"a name that tells a lot") == []
        with pytest.raises(NotFound):
            forget(store, "default", ["a name that tells a lot"])


@pytest.mark.sqlite
def test_forgetting_keeps_the_locks_of_sqlite(tmp_path: Path) -> None:
    """The search opens no file of the catalog in this process: that would drop its locks on it."""
    with making.make(tmp_path) as store:
        making.add(store, "a", SECRET)
        before = _locks(tmp_path / "meta.db")
        forget(store, "default", ["a"])
        assert _locks(tmp_path / "meta.db") == before
        assert before


def _locks(path: Path) -> set[str]:
    """The POSIX locks this process holds on a file, as the system lists them."""
    inode = str(path.stat().st_ino)
    lines = Path("/proc/locks").read_text().splitlines()
    mine = [line.split() for line in lines if f" {os.getpid()} " in line]
    return {" ".join(words[1:4]) for words in mine if words[5].rpartition(":")[2] == inode}


@pytest.mark.sqlite
def test_what_another_index_still_holds_of_a_deleted_twin_is_found_and_erased(
    tmp_path: Path,
) -> None:
    """The same text, deleted and collected in another namespace, is not left in its index."""
    with making.make(tmp_path) as store:
        for namespace in ("default", "other"):
            making.add(store, "twin", SECRET, namespace=namespace)
            for i in range(40):
                making.add(store, f"d{i}", f"text {namespace} {i}", namespace=namespace, seed=i)
        store.apply_outbox()
        store.delete("other", ["twin"])
        store.apply_outbox()
        collect(store, RetentionConfig(deleted_days=0), grace_h=0)
        needle = making.vector(SECRET).tobytes()
        assert any("lance" in path.parts for path in _holding(tmp_path / "lance", needle))
        assert forget(store, "default", ["twin"]).residue == ()
        assert _holding(tmp_path, needle, SECRET.encode()) == []
