"""The check: finds what was damaged, and nothing where all is well."""

from __future__ import annotations

from pathlib import Path

import pytest
import store_making as making
import torch
from defects import DEFECTS
from sqlalchemy.exc import IntegrityError

from adapterdb.errors import Corrupt, Mismatch
from adapterdb.store import Finding, Store, check, repair
from adapterdb.store.passages import IndexRows


def codes(findings: list[Finding]) -> set[str]:
    """Just the codes; every finding also says what and how to mend."""
    assert all(finding.what and finding.mend for finding in findings)
    return {finding.code for finding in findings}


def test_a_sound_home_has_no_findings(tmp_path: Path) -> None:
    """After adding, replacing, deleting and applying, a deep check is silent."""
    with making.make(tmp_path) as store:
        store.write_tensors("meta_init", {"theta": torch.zeros(making.P)})
        making.add(store, "a", "one", "two")
        making.add(store, "a", "three", seed=1)
        making.add(store, "b", "four", namespace="other", seed=2)
        store.delete("other", ["b"])
        store.apply_outbox()
        assert check(store, deep=True) == []


def test_weight_files_lost_flipped_cut_or_foreign(tmp_path: Path) -> None:
    """Each kind of damage to a weight file has its code; orphans and leftovers are notes."""
    with making.make(tmp_path) as store:
        refs = {}
        for i, name in enumerate(("lost", "flipped", "cut")):
            document = making.add(store, name, f"text {name}", seed=i)
            refs[name] = store.passages(document.id)[0].row
        store.apply_outbox()
        with Store.open(tmp_path) as other:
            making.new(other, "never committed", "orphan", seed=9)
        (store.paths.weights / "staging" / "left").write_bytes(b"x")
        store.weights.path(refs["lost"].file).unlink()
        cut = store.weights.path(refs["cut"].file)
        cut.write_bytes(cut.read_bytes()[:-3])
        flipped = store.weights.path(refs["flipped"].file)
        data = bytearray(flipped.read_bytes())
        data[refs["flipped"].offset] ^= 4
        flipped.write_bytes(data)
        quick, deep = check(store), check(store, deep=True)
        notes = {"orphan_file", "stale_staging"}
        assert codes(quick) == {"lost_file", "bad_size", *notes}
        assert codes(deep) == {"lost_file", "bad_size", "sha_mismatch", "bad_row", *notes}
        assert {f.severity for f in deep if f.code in notes} == {"note"}
        assert {f.severity for f in deep if f.code not in notes} == {"error"}


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_has_its_code(sound_home: Path, name: str, catalog_kind: str) -> None:
    """A deep check of a home open for reading names what was planted, and nothing else."""
    defect = DEFECTS[name]
    if defect.sqlite and catalog_kind != "sqlite":
        pytest.skip("it is about SQLite's files")
    defect.plant(sound_home)
    with Store.open(sound_home, read_only=True) as store:
        before = _files(sound_home)
        assert codes(check(store, deep=True)) == defect.codes
        assert codes(check(store)) <= defect.codes
        assert _files(sound_home) == before


def _files(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, without what SQLite's readers share."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.suffix != ".db-shm"}


def test_what_writers_are_about_to_do_is_no_defect(tmp_path: Path) -> None:
    """Files claimed by a writer that lives, and changes just being applied, are left out."""
    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        making.add(store, "a", "one", "two")
        store.apply_outbox()
        document = making.new(other, "b", "three", seed=1)
        assert check(store, deep=True) == []
        other.commit([document])
        assert codes(check(store, deep=True)) == {"outbox_pending"}


def test_a_damaged_old_version_is_no_error(tmp_path: Path) -> None:
    """Once a damaged document is made again, its old version is a warning; deleted, a note."""
    with making.make(tmp_path) as store:
        first = making.add(store, "a", "one")
        store.weights.path(store.passages(first.id)[0].row.file).unlink()
        making.add(store, "a", "one", seed=1)
        store.apply_outbox()
        repair(store)
        (found,) = check(store, deep=True)
        assert (found.code, found.severity, found.document) == ("damaged", "warning", "a@1")
        store.delete("default", ["a"])
        store.apply_outbox()
        assert [f.severity for f in check(store)] == ["note"]


def test_many_defects_of_a_kind_are_one_finding(tmp_path: Path) -> None:
    """An index that lacks many passages, or deltas that change nothing, fill no screen."""
    with making.make(tmp_path) as store:
        making.add(store, "a", *(f"passage {i}" for i in range(40)))
        store.apply_outbox()
        ids = store.index.ids("default", 1)
        store.index.apply("default", 1, IndexRows([], making.vector("x")[None][:0], []), ids[:30])
        (found,) = check(store)
        assert found.code == "index_missing"
        assert "30 passages" in found.what


@pytest.mark.sqlite
def test_a_damaged_catalog_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """A catalog overwritten with noise, or gone, raises Corrupt on open."""
    making.make(tmp_path).close()
    catalog = tmp_path / "meta.db"
    catalog.write_bytes(b"noise" * 4096)
    with pytest.raises(Corrupt):
        Store.open(tmp_path)
    catalog.unlink()
    with pytest.raises(Corrupt) as caught:
        Store.open(tmp_path)
    assert caught.value.code == "lost_catalog"
    assert not catalog.exists()
    (tmp_path / "FORMAT").write_text("{")
    with pytest.raises(Corrupt):
        Store.open(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A store written by a newer program is not opened, and not changed."""
    making.make(tmp_path).close()
    making.alter(tmp_path, "UPDATE store_info SET value = '99' WHERE name = 'format'")
    for read_only in (False, True):
        with pytest.raises(Mismatch) as caught:
            Store.open(tmp_path, read_only=read_only)
        assert caught.value.code == "format"


@pytest.mark.sqlite
def test_connections_are_durable_and_strict(tmp_path: Path) -> None:
    """WAL, synchronous FULL, foreign keys, overwriting of deleted text: on every connection."""
    with making.make(tmp_path) as store, store.sessions.reading() as session:
        run = session.connection().exec_driver_sql
        found = {
            name: run(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
        assert found == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "secure_delete": 1,
        }
        assert run("PRAGMA busy_timeout").scalar() == 30_000


def test_only_one_version_of_a_name_can_be_active(tmp_path: Path) -> None:
    """The database itself refuses a second active version."""
    with making.make(tmp_path) as store:
        making.add(store, "d", "one")
        making.add(store, "d", "two", seed=1)
    with pytest.raises(IntegrityError):
        making.alter(tmp_path, "UPDATE document SET state = 'active'")
