"""What does not agree in a home: catalog, weight files, index and outbox, compared both ways.

Only looks; changes nothing. Severity ``error`` means that something stored can't be
used, ``warning`` that something is slow or stale but no answer is wrong, ``note`` that space is
wasted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from adapterdb.errors import Corrupt
from adapterdb.records import Record
from adapterdb.store.index import IndexFailed
from adapterdb.store.passages import IndexRows

if TYPE_CHECKING:
    from adapterdb.store.store import Store

REBUILD = "the next search or ingest in this namespace rebuilds the index"
RESTORE = "ingest the document again, or restore the file from a backup"


@dataclass(frozen=True)
class Finding(Record):
    """Something that is not as it should be: stable code, what it is, how to mend it."""

    code: str
    severity: Literal["error", "warning", "note"]
    what: str
    mend: str


def check(store: Store, *, deep: bool = False) -> list[Finding]:
    """What is wrong in the home of ``store``; empty if all is well.

    Args:
        store: an open store; may be open for reading only.
        deep: also read every weight file and row, and compare every indexed vector and text.
    """
    found = [*_catalog(store), *_weight_files(store, deep), *_index(store, deep)]
    return found + (_rows(store) if deep else [])


def _catalog(store: Store) -> Iterator[Finding]:
    for problem in store.catalog.problems():
        yield Finding("catalog", "error", f"the catalog: {problem}", "restore it from a backup")


def _weight_files(store: Store, deep: bool) -> Iterator[Finding]:
    named = store.catalog.weight_files()
    for name, size in sorted(named.items()):
        try:
            if size and store.weights.shape(name).size_bytes != size:
                raise Corrupt(f"weight file {name} has not {size} bytes", code="bad_size")
            if (deep or not size) and store.weights.sha256(name) != name:
                raise Corrupt(f"weight file {name} does not match its sha256", code="sha_mismatch")
        except Corrupt as error:
            yield Finding(error.code, "error", error.message, RESTORE)
    for name in sorted(store.weights.names() - named.keys()):
        what = f"weight file {name} is named by nothing (an ingest was broken off, or runs now)"
        yield Finding("orphan_file", "note", what, "remove it when no ingest runs")
    for path in store.weights.staged():
        what = f"{path} was not finished (an ingest was broken off, or runs now)"
        yield Finding("stale_staging", "note", what, "remove it when no ingest runs")


def _rows(store: Store) -> list[Finding]:
    """Rows that can't be read as they were written; what is lost with a whole file is left out."""
    found = []
    for delta_id, ref in store.catalog.all_row_refs():
        try:
            store.weights.verify_row(ref)
        except Corrupt as error:
            if error.code != "lost_file":
                what = f"delta {delta_id}: {error.message}"
                found.append(Finding("bad_row", "error", what, RESTORE))
    return found


def _index(store: Store, deep: bool) -> Iterator[Finding]:
    waiting = store.outbox.namespaces()
    for namespace in waiting:
        count = store.outbox.count(namespace)
        what = f"namespace {namespace!r}: {count} index changes are committed, not yet applied"
        yield Finding("outbox_pending", "warning", what, "the next search or ingest applies them")
    for namespace, generation in sorted(store.outbox.indexed().items()):
        if namespace in waiting:
            continue  # what differs may be just what is pending
        where = f"the index of namespace {namespace!r}"
        try:
            held = store.index.rows(namespace, generation)
        except IndexFailed as error:
            yield Finding("index_unreadable", "warning", f"{where}: {error.message}", REBUILD)
            continue
        yield from _compare(where, held, store.passage_queries.everything(namespace), deep)
    for place in sorted(store.paths.index.glob("*/*.bad-*")):
        what = f"{place} is an index that was set aside as unreadable"
        yield Finding("index_set_aside", "note", what, "remove it")


def _compare(where: str, held: IndexRows, wanted: IndexRows, deep: bool) -> Iterator[Finding]:
    counts, ids = Counter(held.ids), set(wanted.ids)
    differences = {
        "index_missing": (ids - counts.keys(), "lacks passages"),
        "index_extra": (counts.keys() - ids, "holds passages that are gone"),
        "index_duplicate": ({i for i, n in counts.items() if n > 1}, "holds passages twice"),
    }
    if deep:
        differences["index_differs"] = (_differing(held, wanted), "holds altered passages")
    for code, (bad, words) in differences.items():
        if bad:
            what = f"{where} {words}: {len(bad)}, for example {min(bad)}"
            yield Finding(code, "warning", what, REBUILD)


def _differing(held: IndexRows, wanted: IndexRows) -> set[int]:
    """Ids whose vector or text in the index is not that of the catalog."""
    at = {i: row for row, i in enumerate(wanted.ids)}
    return {
        i
        for row, i in enumerate(held.ids)
        if i in at
        and (
            held.texts[row] != wanted.texts[at[i]]
            or not np.array_equal(held.vectors[row], wanted.vectors[at[i]])
        )
    }
