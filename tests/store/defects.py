"""One defect of each kind, to be planted into a small home: what check says, what repair leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import store_making as making
import torch

from adapterdb.store import NewDocument, RowRef, Store
from adapterdb.store.folders import Folders
from adapterdb.store.passages import IndexRows
from adapterdb.store.tables import DeltaTable, PassageTable
from adapterdb.store.versions import crc

BAD = "SELECT id FROM document WHERE name = 'bad'"
OF_BAD = f"SELECT id FROM passage WHERE document_id IN ({BAD})"
FIRST_OF_BAD = f"id IN ({OF_BAD}) AND ordinal = 0"
DELTAS = f"passage_id IN ({OF_BAD})"


@dataclass(frozen=True)
class Defect:
    """How to plant it into the closed home, and the codes expected before and after repair.

    Args:
        left: what repair can't mend without the documents.
        again: ingest must make the document anew afterwards.
        sqlite: can be planted there only.
    """

    plant: Callable[[Path], None]
    codes: set[str]
    left: set[str]
    again: bool = False
    sqlite: bool = False


def make_home(folder: Path) -> None:
    """Documents ``kept``, which every defect leaves alone, and ``bad``; the index is built."""
    with making.make(folder) as store:
        store.write_tensors("meta_init", {"theta": torch.zeros(making.P)})
        making.add(store, "kept", "the harbour of Almery", "opened in spring", seed=1)
        making.add(store, "kept", "salt is sold here", seed=2, namespace="other")
        refs = store.write_rows(making.rows(3, seed=3))
        # the third row of the file is nobody's
        document = making.new(store, "bad", "a kettle of copper", "hangs over the grass", seed=4)
        _commit_on(store, document, *refs[:2])


def _commit_on(store: Store, document: NewDocument, *refs: RowRef) -> None:
    """Commit it on these rows, without the file of its own."""
    store.commit([making.on_rows(document, *refs)])
    store.weights.remove(document.passages[0].row.file)
    store.apply_outbox()


def refs_of(folder: Path, name: str) -> list[RowRef]:
    """Where the rows of a document lie."""
    with Store.open(folder) as store:
        found = store.passages(store.document("default", name).id)
        return [passage.row for passage in found]


def answers(store: Store) -> list[object]:
    """What searches say of ``kept``, and the bytes of its rows."""
    found: list[object] = []
    for namespace in ("default", "other"):
        for query in ("the harbour of Almery", "salt is sold here"):
            hits = store.search_vectors(namespace, making.vector(query), 10)
            hits += store.search_text(namespace, query, 10)
            for hit in hits:
                if hit.passage.document == "kept":
                    row = store.read_row(hit.passage.row).view(torch.uint8).numpy().tobytes()
                    found.append((hit.passage.text, hit.passage.version, row))
    assert len(found) > 4
    return found


def _sql(*statements: str) -> Callable[[Path], None]:
    return lambda folder: making.alter(folder, *statements)


def _past_constraints(*statements: str) -> Callable[[Path], None]:
    """SQL without foreign keys, as a damaged or foreign program may leave it."""

    def plant(folder: Path) -> None:
        with closing(sqlite3.connect(Folders(folder).catalog)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return plant


def _weight_file(change: Callable[[bytearray, RowRef], bytes | None]) -> Callable[[Path], None]:
    """The file of ``bad`` changed, or removed."""

    def plant(folder: Path) -> None:
        ref = refs_of(folder, "bad")[0]
        path = Folders(folder).weights / ref.file[:2] / f"{ref.file}.safetensors"
        data = change(bytearray(path.read_bytes()), ref)
        path.unlink() if data is None else path.write_bytes(data)

    return plant


def _flip(row: int) -> Callable[[bytearray, RowRef], bytes]:
    def change(data: bytearray, ref: RowRef) -> bytes:
        data[ref.offset + row * ref.size_bytes] ^= 4
        return bytes(data)

    return change


def _in(act: Callable[[Store], object]) -> Callable[[Path], None]:
    """Something done to the open store."""

    def plant(folder: Path) -> None:
        with Store.open(folder) as store:
            act(store)

    return plant


def _dead(store: Store) -> None:
    document = making.new(store, "dead", "no effect")
    ref = store.write_rows(torch.zeros(1, making.P, dtype=torch.bfloat16))[0]
    _commit_on(store, document, ref)


def _replaced_parent(store: Store) -> None:
    parent = store.deltas(making.add(store, "parent", "first", seed=6).id)[0].id
    making.add(store, "child", "made from it", seed=7, parents=(parent,))
    making.add(store, "parent", "second", seed=8)
    store.apply_outbox()


def _deleted_parent(folder: Path) -> None:
    with Store.open(folder) as store:
        parent = store.deltas(making.add(store, "parent", "first", seed=6).id)[0].id
        child = store.deltas(making.add(store, "child", "made from it", seed=7).id)[0].id
        store.delete("default", ["parent"])
        store.apply_outbox()
    making.alter(folder, f"INSERT INTO lineage (child, parent) VALUES ('{child}', '{parent}')")


def _index_row(store: Store, text: str = "a kettle of copper") -> IndexRows:
    document = store.document("default", "bad")
    words = f"{document.title}\n{text}"
    passage = store.passages(document.id)[0].passage_id
    return IndexRows([passage], making.vector(text)[None], [words])


def _extra(store: Store) -> None:
    row = _index_row(store)._replace(ids=[999])
    store.index.apply("default", 1, row, [])


def _missing(store: Store) -> None:
    row = _index_row(store)
    store.index.apply(
        "default", 1, row._replace(ids=[], texts=[], vectors=row.vectors[:0]), row.ids
    )


def _duplicate(store: Store) -> None:
    row = _index_row(store)
    store.index.count("default", 1)
    table = store.index._open(store.index.place("default", 1))
    table.add(store.index._batch(row))
    store.index._sums.record(store.index.place("default", 1))


def _unreadable(folder: Path) -> None:
    for path in Folders(folder).index.rglob("*.manifest"):
        path.write_bytes(b"")


def _index_folder(name: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (next(Folders(folder).index.glob("*/")) / name).mkdir()

    return plant


def _short_vector(store: Store) -> None:
    with store.sessions.writing() as session:
        document = store.document("default", "bad")
        passage = session.get_one(PassageTable, store.passages(document.id)[0].passage_id)
        passage.vector = passage.vector[:16]
        passage.vector_crc = crc(passage.vector)


def _spoilt_prototype(store: Store) -> None:
    with store.sessions.writing() as session:
        found = store.deltas(store.document("default", "bad").id)[0]
        session.get_one(DeltaTable, found.id).prototype = b"of another layout"


def _reserve(folder: Path) -> None:
    Folders(folder).reserve.unlink()


def _orphan(store: Store) -> None:
    store.write_rows(making.rows(2, seed=9))


def _wait(store: Store) -> None:
    making.add(store, "late", "not in the index yet", seed=10)


def _damaged(folder: Path, *, lost: bool) -> None:
    making.alter(
        folder,
        f"UPDATE delta SET damaged = true WHERE {DELTAS}",
        f"UPDATE document SET key = 'damaged:' || key WHERE id IN ({BAD})",
    )
    if lost:
        _weight_file(lambda data, ref: None)(folder)


def _zero_a_page(folder: Path) -> None:
    catalog = Folders(folder).catalog
    with closing(sqlite3.connect(catalog)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        # a table that no reading of the home needs
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'document_field_key'"
        ).fetchone()[0]
    data = bytearray(catalog.read_bytes())
    data[(root - 1) * size : root * size] = b"\xff" * size
    catalog.write_bytes(data)


SECOND_ACTIVE = "UPDATE document SET state = 'active' WHERE name = 'bad'"


def _two_active(folder: Path) -> None:
    with Store.open(folder) as store:
        making.add(store, "bad", "a new kettle", seed=11)
        store.apply_outbox()
    making.alter(folder, "DROP INDEX document_active", SECOND_ACTIVE)


ERASED_VECTOR = (
    "UPDATE passage SET vector ="
    " (SELECT p.vector FROM passage p JOIN document d ON d.id = p.document_id"
    f" WHERE d.name = 'kept' AND d.namespace = 'other') WHERE {FIRST_OF_BAD}"
)
DANGLING = "INSERT INTO lineage (child, parent) VALUES ('gone', 'gone too')"
CLAIM = "INSERT INTO claim (file, writer) VALUES ('ab', 'cd')"
STUCK = "INSERT INTO outbox (namespace, op, passage_id) VALUES ('default', 'put', 9999)"
STRAY = (
    "INSERT INTO outbox (namespace, op, passage_id)"
    f" SELECT 'other', 'delete', id FROM passage WHERE {FIRST_OF_BAD}"
)
ERASURE = "INSERT INTO erasure (namespace, seq) VALUES ('default', 1)"

DEFECTS = {
    "catalog_keys": Defect(
        _past_constraints( "UPDATE delta SET file = 'x'"
                          f" WHERE {DELTAS}"),
        {"catalog"}, {"catalog"}, sqlite=True),
    "catalog_page": Defect(_zero_a_page, {"catalog"}, {"catalog"}, sqlite=True),
    "format": Defect(_sql(f"UPDATE delta SET dtype = 'float32' WHERE {DELTAS}"),
                     {"format"}, {"format"}),
    "format_of_vector": Defect(_in(_short_vector), {"format", "index_differs"}, {"format"}),
    "fingerprint": Defect(_sql(f"UPDATE delta SET base_fingerprint = 'x' WHERE {DELTAS}"),
                          {"fingerprint"}, {"fingerprint"}),
    "lost_file": Defect(_weight_file(lambda data, ref: None), {"lost_file"}, {"damaged"}, True),
    "bad_size": Defect(_weight_file(lambda data, ref: bytes(data) + b"x"), {"bad_size"}, set()),
    "cut": Defect(_weight_file(lambda data, ref: bytes(data[: ref.offset + ref.size_bytes])),
                  {"bad_size", "bad_row"}, {"damaged"}, True),
    "sha_mismatch": Defect(_weight_file(_flip(2)), {"sha_mismatch"}, set()),
    "flipped_row": Defect(_weight_file(_flip(0)), {"sha_mismatch", "bad_row"}, {"damaged"}, True),
    "bad_row": Defect(_sql(f"UPDATE delta SET sha256 = 'x' WHERE {DELTAS}"), {"bad_row"},
                      {"damaged"}, True),
    "dead": Defect(_in(_dead), {"dead"}, {"dead"}),
    "orphan_file": Defect(_in(_orphan), {"orphan_file"}, set()),
    "stale_staging": Defect(
        lambda folder: (Folders(folder).weights / "staging" / "left").write_bytes(b"x") and None,
        {"stale_staging"}, set()),
    "abandoned_claim": Defect(_sql(CLAIM), {"abandoned_claim"}, set()),
    "row_crc_passage": Defect(_sql(f"UPDATE passage SET text = 'a kettle' WHERE {FIRST_OF_BAD}"),
                              {"row_crc"}, set()),
    "row_crc_document": Defect(
        _sql("UPDATE document SET text = replace(text, 'kettle', 'kittle') WHERE name = 'bad'"),
        {"row_crc"}, set()),
    "row_crc_vector": Defect(_sql(ERASED_VECTOR), {"row_crc"}, {"row_crc"}, True),
    "damaged": Defect(lambda folder: _damaged(folder, lost=True), {"damaged"}, {"damaged"}, True),
    "damaged_and_found": Defect(lambda folder: _damaged(folder, lost=False), {"damaged"}, set()),
    "index_missing": Defect(_in(_missing), {"index_missing"}, set()),
    "index_extra": Defect(_in(_extra), {"index_extra"}, set()),
    "index_duplicate": Defect(_in(_duplicate), {"index_duplicate"}, set()),
    "index_differs": Defect(
        _in(lambda store: store.index.apply(
            "default", 1, _index_row(store)._replace(texts=["another text"]), [])),
        {"index_differs"}, set()),
    "index_unreadable": Defect(_unreadable, {"index_unreadable"}, set()),
    "index_set_aside": Defect(_index_folder("g000001.bad-1"), {"index_set_aside"}, set()),
    "index_superseded": Defect(_index_folder("g000009"), {"index_superseded"}, set()),
    "outbox_pending": Defect(_in(_wait), {"outbox_pending"}, set()),
    "outbox_stuck": Defect(_sql(STUCK), {"outbox_stuck"}, set()),
    "outbox_of_another": Defect(_sql(STRAY), {"outbox_stuck"}, set()),
    "erasure_pending": Defect(_sql(ERASURE), {"erasure_pending"}, set()),
    "derived_of_deleted": Defect(_deleted_parent,
                                 {"derived_stale"}, set()),
    "derived_of_replaced": Defect(_in(_replaced_parent),
                                  {"derived_stale"}, {"derived_stale"}),
    "derived_of_nothing": Defect(_past_constraints(DANGLING), {"derived_stale"}, set(),
                                 sqlite=True),
    "document_counts": Defect(_sql("UPDATE document SET passages = 9 WHERE name = 'bad'"),
                              {"document_counts"}, {"document_counts"}, True),
    "two_active": Defect(_two_active, {"document_counts", "index_missing"}, set()),
    "prototype": Defect(_in(_spoilt_prototype), {"prototype"}, set()),
    "clock": Defect(_sql("UPDATE clock SET seq = 1"), {"clock"}, set()),
    "clock_gone": Defect(_sql("DELETE FROM clock"), {"clock"}, set()),
    "reserve": Defect(_reserve, {"reserve"}, set()),
    "unknown_file": Defect(lambda folder: (folder / "notes.txt").write_text("mine") and None,
                           {"unknown_file"}, {"unknown_file"}),
}  # fmt: skip
