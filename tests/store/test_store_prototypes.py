"""Prototypes in the catalog: kept with their delta, gone with it, and never a wrong one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import store_making as making
from sqlalchemy import update

from adapterdb.errors import Mismatch
from adapterdb.records import StoredDocument
from adapterdb.store import NewDocument, NewPassage, Store, check
from adapterdb.store.migrations import FORMAT
from adapterdb.store.prototypes import sealed, size_bytes, unsealed
from adapterdb.store.tables import DeltaTable
from adapterdb.store.upkeep.backup import backup
from adapterdb.store.upkeep.forget import forget

SIZE = size_bytes(making.LAYOUT)
SECRET = "The hidden spring lies under the third oak of Marrow Wood, says Ilse."


def core(text: str) -> bytes:
    """A prototype of the right length, another for each text."""
    return making.vector(text).tobytes()[:SIZE]


def with_core(document: NewDocument, **changes: object) -> NewDocument:
    """The same document, each of its deltas with the prototype of its text."""

    def made(entry: NewPassage) -> NewPassage:
        changed = {"prototype": core(entry.passage.text), **changes}
        return replace(entry, **changed)  # type: ignore[arg-type]

    return replace(document, passages=tuple(map(made, document.passages)))


def add(store: Store, name: str, *texts: str, seed: int = 0) -> StoredDocument:
    """A document whose deltas have prototypes."""
    return store.commit([with_core(making.new(store, name, *texts, seed=seed))])[0]


def cores(store: Store, document: StoredDocument) -> list[bytes]:
    """The prototypes of a document, as passages and as deltas have them."""
    found = [passage.prototype for passage in store.passages(document.id)]
    assert store.prototypes_of([delta.id for delta in store.deltas(document.id)]) == found
    return found


def holding(home: Path, needle: bytes) -> list[Path]:
    """Files of the home that hold these bytes."""
    return [p for p in home.rglob("*") if p.is_file() and needle in p.read_bytes()]


def test_prototypes_are_kept_and_come_with_hits(tmp_path: Path) -> None:
    """With every passage of a document, every hit, in a backup, and after a rollback."""
    with making.make(tmp_path / "home") as store:
        first = add(store, "a", "alpha", "beta")
        plain = making.add(store, "plain", "gamma", seed=1)
        assert cores(store, first) == [core("alpha"), core("beta")]
        assert cores(store, plain) == [b""]
        hits = store.search_vectors("default", making.vector("beta"), 3)
        assert hits[0].passage.prototype == core("beta")
        add(store, "a", "delta", seed=2)
        assert cores(store, store.rollback("default", "a", 1)) == [core("alpha"), core("beta")]
        backup(store, tmp_path / "copy")
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []
    with Store.open(tmp_path / "copy") as copy:
        assert cores(copy, copy.document("default", "a")) == [core("alpha"), core("beta")]
        assert copy.prototypes_of(["no such delta"]) == [b""]


def test_a_prototype_of_another_layout_is_refused(tmp_path: Path) -> None:
    """One that is too long or too short is not committed."""
    with making.make(tmp_path) as store:
        document = with_core(making.new(store, "a", "alpha"), prototype=core("alpha") + b"more")
        with pytest.raises(Mismatch, match="prototype"):
            store.commit([document])
        assert store.documents() == []


def test_a_prototype_that_was_altered_counts_as_none() -> None:
    """Any flipped bit, and any bytes cut off, are noticed."""
    column = sealed(core("alpha"))
    assert column is not None
    assert unsealed(column) == unsealed(column, SIZE) == core("alpha")
    for at in range(8 * len(column)):
        flipped = bytearray(column)
        flipped[at // 8] ^= 1 << at % 8
        assert unsealed(bytes(flipped)) == b""
        assert unsealed(column[: at // 8]) == b""
    assert unsealed(column, SIZE + 4) == b""
    assert sealed(b"") is None
    assert unsealed(None) == b""


def test_altered_prototypes_are_not_returned(tmp_path: Path) -> None:
    """A delta whose prototype was altered in the catalog is found, without one."""
    with making.make(tmp_path) as store:
        document = add(store, "a", "alpha")
        with store.sessions.writing() as session:
            session.execute(update(DeltaTable).values(prototype=b"\0" * (SIZE + 4)))
        assert cores(store, document) == [b""]
        assert making.found(store, "alpha") == ["alpha"]


@pytest.mark.sqlite
def test_forgetting_leaves_no_prototype(tmp_path: Path) -> None:
    """After a receipt the bytes are in no file; those of another document stay."""
    with making.make(tmp_path) as store:
        add(store, "a secret of the wood", SECRET)
        add(store, "other", "kept words", seed=1)
        store.apply_outbox()
        assert holding(tmp_path, core(SECRET))
        assert forget(store, "default", ["a secret of the wood"]).residue == ()
        assert holding(tmp_path, core(SECRET)) == []
        assert cores(store, store.document("default", "other")) == [core("kept words")]


@pytest.mark.sqlite
def test_a_withdrawn_row_leaves_no_prototype(tmp_path: Path) -> None:
    """Members of a cluster lose the prototype with the row once its maker is gone."""
    with making.make(tmp_path) as store:
        (ref,) = store.write_rows(making.rows(1, seed=7))
        shared = {"row": ref, "kind": "cluster", "prototype": core(SECRET)}
        maker = with_core(making.new(store, "maker", SECRET, seed=8), **shared)
        member = with_core(making.new(store, "member", "words", seed=8), **shared, own=False)
        _, kept = store.commit([maker, member])
        assert cores(store, kept) == [core(SECRET)]
        store.apply_outbox()
        assert forget(store, "default", ["maker"]).residue == ()
        assert cores(store, kept) == [b""]
        assert holding(tmp_path, core(SECRET)) == []


@pytest.mark.sqlite
def test_a_home_of_the_third_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """Format 3 opens with all it held and without prototypes; its index stays as it was."""
    home = tmp_path / "old"
    shutil.copytree(Path(__file__).parent / "homes" / "format_3", home)
    with pytest.raises(Mismatch, match="older format 3"):
        Store.open(home, read_only=True)
    with Store.open(home) as store:
        assert [(d.namespace, d.name, d.version) for d in store.documents()] == [
            ("default", "brook", 1),
            ("default", "doubtful", 1),
            ("default", "mill", 3),
            ("default", "spring", 1),
            ("default", "tower", 1),
            ("default", "view", 1),
            ("other", "tower", 1),
        ]
        assert [cores(store, document) for document in store.documents()] == [[b""]] * 7
        brook, doubtful = (
            store.deltas(store.document("default", n).id)[0] for n in ("brook", "doubtful")
        )
        assert (brook.kind, brook.own, doubtful.flag) == ("cluster", False, "encodes_nothing")
        assert store.outbox.namespaces() == []
        words = [hit.passage.document for hit in store.search_text("default", "oats", 5)]
        assert words == ["mill"]
        assert check(store, deep=True) == []
        new = add(store, "new", "words", seed=9)
        assert cores(store, new) == [core("words")]
        assert store.delete("default", ["tower"]) == 1  # and what was derived from it
        assert "view" not in [d.name for d in store.documents("default")]


def test_the_column_is_added_in_any_database(tmp_path: Path) -> None:
    """A catalog without it, of the format before, has it after the next opening."""
    with making.make(tmp_path) as store:
        making.add(store, "a", "alpha")
    older = "UPDATE store_info SET value = '3' WHERE name IN ('format', 'min_reader')"
    making.alter(tmp_path, "ALTER TABLE delta DROP COLUMN prototype", older)
    with Store.open(tmp_path) as store:
        assert cores(store, store.document("default", "a")) == [b""]
        assert cores(store, add(store, "b", "beta", seed=1)) == [core("beta")]
        assert store.catalog.info()["format"] == str(FORMAT)
