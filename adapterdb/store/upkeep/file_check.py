"""What is wrong with the files of a home: weight files, the rows in them, and what lies around.

Reads only. Others may commit and collect meanwhile: what looks lost or nobody's is looked up in the
catalog after it was seen, not before.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from adapterdb.config import FILE_NAME, RECIPE_FILE
from adapterdb.errors import Corrupt
from adapterdb.store import purge
from adapterdb.store.catalog import row_ref
from adapterdb.store.claims import Standing
from adapterdb.store.reserve import PLENTY, SIZE_BYTES
from adapterdb.store.rows import RowRef
from adapterdb.store.tables import (
    WITHDRAWN,
    DeltaTable,
    DocumentTable,
    PassageTable,
    WeightFileTable,
)
from adapterdb.store.upkeep.catalog_check import damaged, is_damaged
from adapterdb.store.upkeep.findings import INGEST, REPAIR, RESTORE, Finding, named, severity_of

if TYPE_CHECKING:
    from adapterdb.store.store import Store

PAGE = 1000  # deltas looked up at once
LEFT = "an ingest was broken off"
_FILE = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.safetensors")
_OWN = {"FORMAT", "FORMAT.new", "meta.db", "reserve.bin", FILE_NAME, RECIPE_FILE}
_OWN |= {"weights", "lance", "locks", "quarantine"}


class Leftovers(NamedTuple):
    """Files that nothing names and no living writer claims, by code; and who claims what."""

    orphan_file: list[Path]
    stale_staging: list[Path]
    standing: Standing


class _Usage(NamedTuple):
    """A weight file that the catalog names: bytes (0: not known), deltas, those not lost yet."""

    size_bytes: int
    deltas: int
    sound: int


def weight_files(store: Store, *, deep: bool) -> Iterator[Finding]:
    """Weight files that are lost, cut, altered (told by reading them, if ``deep``), or foreign."""
    for name, usage in sorted(_usages(store).items()):
        shared = not usage.size_bytes  # tensors of the store itself
        if usage.deltas and not usage.sound:
            continue  # its deltas are marked already
        problem = file_problem(store, name, usage.size_bytes, whole=deep or shared)
        if problem is None or name not in _usages(store, name):
            continue
        if shared or problem.code == "fingerprint":
            yield Finding(problem.code, "error", problem.message, RESTORE, False, id=name)
        elif usage.deltas:
            mend = f"put it back, or {REPAIR}, then {INGEST}"
            yield Finding(problem.code, "error", problem.message, mend, id=name)
        else:
            what = f"{problem.message}; nothing needs it any more"
            yield Finding(problem.code, "note", what, id=name)


def file_problem(store: Store, name: str, size_bytes: int, *, whole: bool) -> Corrupt | None:
    """What is wrong with a weight file: code and words.

    Args:
        size_bytes: what it should have; 0 for a file of tensors, whose size is not known.
        whole: read it all.
    """
    try:
        if size_bytes:
            shape = store.weights.shape(name)
            if shape.size_bytes != size_bytes:
                return Corrupt(f"weight file {name} has not {size_bytes} bytes", code="bad_size")
            fields = store.weights.fields
            if any(shape.fields.get(key, fields[key]) != fields[key] for key in fields):
                what = f"weight file {name} was written for another store or layout"
                return Corrupt(what, code="fingerprint")
        if whole and store.weights.sha256(name) != name:
            return Corrupt(f"weight file {name} does not match its sha256", code="sha_mismatch")
    except Corrupt as error:
        return error
    return None


def row_problem(store: Store, ref: RowRef) -> Corrupt | None:
    """Why a row can't be used; None if it can."""
    try:
        store.weights.verify_row(ref)
    except Corrupt as error:
        return error
    return None


def rows(store: Store, *, deep: bool) -> Iterator[Finding]:
    """Deltas that are marked as lost; if ``deep``, rows that can't be read as they were written."""
    with store.sessions.reading() as session:
        lost = damaged(session)
    readable = dict.fromkeys((row.id for row in lost), 0)
    dead: list[str] = []
    for delta, document in _deltas(store) if deep else ():
        ref = row_ref(delta)
        problem = row_problem(store, ref)
        if problem is None and document.state == "active" and _is_dead(store, delta):
            dead.append(delta.id)
        if delta.damaged:
            usable = problem is None and delta.flag != WITHDRAWN
            readable[document.id] = readable.get(document.id, 0) + usable
        elif problem is not None and problem.code != "lost_file" and _still(store, delta.id, ref):
            yield Finding(
                "bad_row",
                severity_of(document.state),
                f"delta {delta.id}: {problem.message}",
                f"{REPAIR}, then {INGEST}",
                namespace=document.namespace,
                document=f"{document.name}@{document.version}",
                id=delta.id,
            )
    for row in lost:
        yield is_damaged(row, readable[row.id])
    if dead:
        what = f"{named(len(dead), 'deltas of norm 0', dead[0])} change nothing"
        mend = "nothing to do: their passages are found and read all the same"
        yield Finding("dead", "note", what, mend, False, id=dead[0])


def left(store: Store) -> Iterator[Finding]:
    """Files that nothing names, claims of writers that died, and what is not ours at all."""
    found = leftovers(store)
    for path in found.orphan_file:
        what = f"weight file {path.stem} is named by nothing ({LEFT})"
        yield Finding("orphan_file", "note", what, id=path.stem)
    for path in found.stale_staging:
        what = f"{path} was not finished ({LEFT})"
        yield Finding("stale_staging", "note", what, id=path.name)
    for writer in sorted(found.standing.writers):
        what = f"writer {writer} died and left its claims on files ({LEFT})"
        yield Finding("abandoned_claim", "note", what, id=writer)
    for path in _unknown(store):
        what = f"{path} is none of the files of a home"
        mend = "move it elsewhere if you know what it is"
        yield Finding("unknown_file", "note", what, mend, False, id=_place(store, path))
    if store.reserve.held_bytes < SIZE_BYTES:
        room = shutil.disk_usage(store.home).free >= PLENTY * SIZE_BYTES
        what = "no space is set aside for deleting on a full disk"
        mend = "it is set aside when the home is next opened for writing, if there is room"
        yield Finding("reserve", "note", what, mend, room)


def leftovers(store: Store, session: Session | None = None) -> Leftovers:
    """What nobody needs, of the moment of ``session`` or of a transaction of its own."""
    names, staged = store.weights.names(), store.weights.staged()  # before the catalog is asked
    if session is None:
        with store.sessions.reading() as session:
            standing = store.claims.standing(session)
            used = purge.named_files(session) | standing.alive
    else:
        standing = store.claims.standing(session)
        used = purge.named_files(session) | standing.alive
    orphans = [store.weights.path(name) for name in sorted(names - used)]
    return Leftovers(
        [path for path in orphans if path.exists()],
        [path for path in staged if path.name[:64] not in standing.alive],
        standing,
    )


def _usages(store: Store, name: str | None = None) -> dict[str, _Usage]:
    """Every weight file the catalog names, or that one."""
    sound = func.sum(case((DeltaTable.damaged, 0), else_=1))
    query = (
        select(WeightFileTable.name, WeightFileTable.size_bytes, func.count(DeltaTable.id), sound)
        .outerjoin(DeltaTable, DeltaTable.file == WeightFileTable.name)
        .group_by(WeightFileTable.name, WeightFileTable.size_bytes)
    )
    if name is not None:
        query = query.where(WeightFileTable.name == name)
    with store.sessions.reading() as session:
        shared = dict.fromkeys(purge.tensor_files(session), _Usage(0, 0, 0))
        rows = session.execute(query)
        return shared | {file: _Usage(size, n, int(n and s)) for file, size, n, s in rows}


def _deltas(store: Store) -> Iterator[tuple[DeltaTable, DocumentTable]]:
    """Every delta and its document version, page by page."""
    last = ""
    query = (
        select(DeltaTable, DocumentTable)
        .join(PassageTable, PassageTable.id == DeltaTable.passage_id)
        .join(DocumentTable, DocumentTable.id == PassageTable.document_id)
        .order_by(DeltaTable.id)
        .limit(PAGE)
    )
    while True:
        with store.sessions.reading() as session:
            page = list(session.execute(query.where(DeltaTable.id > last)))
        if not page:
            return
        last = page[-1][0].id
        # a file is opened once for all of its rows on the page
        yield from sorted(page, key=lambda row: (row[0].file, row[0].offset))


def _still(store: Store, delta_id: str, ref: RowRef) -> bool:
    """Whether the delta still lies where it could not be read."""
    with store.sessions.reading() as session:
        delta = session.get(DeltaTable, delta_id)
        return delta is not None and row_ref(delta) == ref


def _is_dead(store: Store, delta: DeltaTable) -> bool:
    """Whether a delta changes nothing; of LoRA factors a norm of 0 says that it is not known."""
    if delta.norm or delta.kind == "gradient":
        return not delta.norm
    row = store.weights.read_row(row_ref(delta)).float()
    return float(store.info.layout.change_norms(row[None])[0]) == 0


def _unknown(store: Store) -> list[Path]:
    own = _OWN | {f"meta.db{end}" for end in ("-wal", "-shm", "-journal")}
    found = [path for path in store.home.iterdir() if path.name not in own]
    catalog = store.sessions.path
    if store.sessions.is_sqlite:  # a URL may name another file in the home
        found = [path for path in found if not path.name.startswith(catalog.name)]
    weights = store.paths.weights
    found += [path for path in weights.glob("*") if path.is_file()]
    for path in weights.glob("*/*"):
        if path.parent.name != "staging" and not _FILE.fullmatch(str(path.relative_to(weights))):
            found.append(path)
    found += [path for path in store.paths.index.glob("*") if path.is_file()]
    return sorted(found)


def _place(store: Store, path: Path) -> str:
    return str(path.relative_to(store.home))
