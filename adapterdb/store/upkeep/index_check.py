"""What is wrong with the search index, held against the catalog. Reads only.

Writers go on meanwhile, and the two can't be read at one moment: only what differs twice in a row
differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from adapterdb.store.index import IndexFailed
from adapterdb.store.passages import CHUNK, IndexRows, index_query, indexed_text
from adapterdb.store.tables import PassageTable
from adapterdb.store.upkeep.findings import Finding, named
from adapterdb.store.versions import crc

if TYPE_CHECKING:
    from adapterdb.store.store import Store

REBUILD = "run `adb fsck --repair`, or `adb optimize`; searches read the catalog where they can"
WORDS = {
    "index_missing": "lacks passages",
    "index_extra": "holds passages that are gone",
    "index_duplicate": "holds passages twice",
    "index_differs": "holds altered passages",
}


def index(store: Store, *, deep: bool) -> Iterator[Finding]:
    """Where the index is not what the catalog says; ``deep``: vectors and texts too."""
    for namespace in sorted({*store.outbox.indexed(), *store.catalog.namespaces()}):
        where = f"the index of namespace {namespace!r}"
        try:
            wrong = _differences(store, namespace, deep)
            if any(wrong.values()):
                again = _differences(store, namespace, deep)
                wrong = {code: ids & again[code] for code, ids in wrong.items()}
        except IndexFailed as error:
            what = f"{where}: {error.message}"
            yield Finding("index_unreadable", "warning", what, REBUILD, namespace=namespace)
            continue
        for code, ids in wrong.items():
            if ids:
                what = f"{where} {WORDS[code]}: {named(len(ids), 'passages', min(ids))}"
                yield Finding(code, "warning", what, REBUILD, namespace=namespace)


def folders(store: Store) -> Iterator[Finding]:
    """Folders of the index that are no longer read."""
    for folder in sorted(store.paths.index.glob("*/")):
        for path in unread(store, folder):
            place = str(path.relative_to(store.home))
            what = f"{path} is an index that is not read (it was set aside, or is being built)"
            yield Finding(unread_code(path), "note", what, id=place)


def unread(store: Store, folder: Path) -> list[Path]:
    """What lies in the index folder of a namespace besides the generation that is read."""
    there = sorted(folder.glob("*"))  # before the catalog is asked
    read = {store.index.place(name, number) for name, number in store.outbox.indexed().items()}
    return [path for path in there if path not in read]


def unread_code(path: Path) -> str:
    """The code for one of them: taken out of use as damaged, or of another generation."""
    return "index_set_aside" if ".bad-" in path.name else "index_superseded"


def _differences(store: Store, namespace: str, deep: bool) -> dict[str, set[int]]:
    """Ids of passages that are not in the index as they should be, by code."""
    before = store.outbox.pending(namespace)
    counts: Counter[int] = Counter()
    altered: set[int] = set()
    if before.changed and not before.generation:
        return {code: set() for code in WORDS}  # it is about to be built
    if before.generation and deep:
        for batch in store.index.scan(namespace, before.generation):
            counts.update(batch.ids)
            altered |= _altered(store, batch)
    elif before.generation:
        counts.update(store.index.ids(namespace, before.generation))
    after, wanted = store.outbox.members(namespace)
    settled = {*before.changed, *after.changed}
    missing = sorted(wanted - counts.keys() - settled)
    return {
        "index_missing": set(_intact(store, missing)),
        "index_extra": counts.keys() - wanted - settled,
        "index_duplicate": {i for i, n in counts.items() if n > 1},
        "index_differs": (altered & wanted) - settled,
    }


def _altered(store: Store, held: IndexRows) -> set[int]:
    """Ids whose vector in the index fails the catalog's checksum, or whose text is another one."""
    with store.sessions.reading() as session:
        found = session.execute(index_query(None).where(PassageTable.id.in_(held.ids)))
        want = {row.id: row for row in found}
    vectors = held.vectors.astype("<f4")
    have = zip(held.ids, held.texts, vectors, strict=True)
    return {
        i for i, text, vector in have if i in want and _differs(want[i], text, vector.tobytes())
    }


def _differs(row: Any, text: str, vector: bytes) -> bool:
    sound = crc(row.text) == row.text_crc  # else nobody knows what its text should be
    return crc(vector) != row.vector_crc or (sound and text != indexed_text(row))


def _intact(store: Store, ids: Sequence[int]) -> Iterator[int]:
    """Those of ``ids`` whose text and vector are as stored: no others belong into the index."""
    columns = PassageTable.id, PassageTable.text, PassageTable.vector
    query = select(*columns, PassageTable.text_crc, PassageTable.vector_crc)
    for at in range(0, len(ids), CHUNK):
        with store.sessions.reading() as session:
            chosen = query.where(PassageTable.id.in_(ids[at : at + CHUNK]))
            for row in session.execute(chosen.execution_options(yield_per=CHUNK)):
                same = (crc(row.text), crc(row.vector)) == (row.text_crc, row.vector_crc)
                if same and len(row.vector) == 4 * store.info.dimension:
                    yield row.id
