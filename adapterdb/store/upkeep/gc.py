"""Garbage collection: versions that retention no longer keeps, and files that nothing names.

A file goes only when no delta names it and no living writer claims it, and it goes inside a writing
transaction, which every claim waits for: so nothing can come to need it meanwhile. A file that
holds mostly rows of purged versions is written anew without them. What no catalog entry ever
named (left by a crash, or put there by someone) waits for ``grace``.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.orm import Session

from adapterdb.config import RetentionConfig
from adapterdb.errors import Corrupt
from adapterdb.records import Record, check_number
from adapterdb.store import purge
from adapterdb.store.changes import raise_horizon, tick
from adapterdb.store.claims import Standing
from adapterdb.store.failures import storage_failures
from adapterdb.store.locks import held
from adapterdb.store.rows import RowRef
from adapterdb.store.sharing import kept, partners

if TYPE_CHECKING:
    from adapterdb.store.store import Store

STEPS = ("purged", "rows_moved", "unlinked", "collected")
GRACE_H = 24.0
SPARSE = 0.5  # a file with a smaller part in use is written anew
WAIT_S = 60.0


class Freed(NamedTuple):
    """Weight files removed, leftovers removed, bytes of both."""

    files: int
    leftovers: int
    size_bytes: int


@dataclass(frozen=True)
class Collected(Record):
    """What a collection removed, or with ``dry_run`` would remove.

    Args:
        versions: document versions that retention no longer keeps.
        files: weight files; ``rewritten``: of those, files whose rows in use were moved first.
        leftovers: unfinished or unnamed files, set-aside and superseded index folders.
        size_bytes: of all that.
        disabled: cluster deltas that act no more, as what they were made from is gone.
    """

    versions: int
    files: int
    rewritten: int
    leftovers: int
    size_bytes: int
    dry_run: bool = False
    disabled: int = 0


def collect(
    store: Store,
    keep: RetentionConfig | None = None,
    *,
    grace_h: float = GRACE_H,
    dry_run: bool = False,
) -> Collected:
    """Remove what is no longer needed from the home of ``store``.

    Safe beside any other work on the home, of this process or others.

    Args:
        store: open for writing.
        keep: what is kept of the past; None means the defaults.
        grace_h: hours before a file that nothing ever named is taken for garbage.
        dry_run: only count.

    Raises:
        Locked: if another process collects, forgets or backs up.
    """
    keep = keep or RetentionConfig()
    check_number("grace", grace_h, 0, 10**6)
    if dry_run:
        return _count(store, keep, grace_h)
    store.check_writable()
    with store.housekeeping(WAIT_S):
        versions, disabled = _purge(store, keep)
        rewritten = [usage.name for usage in _sparse(store) if rewrite(store, usage.name)]
        weights = unlink_unused(store, grace_h)
        index = clear_index(store, grace_h)
    return Collected(
        versions=versions,
        files=weights.files,
        rewritten=len(rewritten),
        leftovers=weights.leftovers + index.leftovers,
        size_bytes=weights.size_bytes + index.size_bytes,
        disabled=disabled,
    )


def rewrite(store: Store, file: str, *, without: Iterable[int] = ()) -> dict[RowRef, RowRef]:
    """Copy the rows of ``file`` that deltas name to a new file, and let the deltas name that.

    Args:
        without: ids of document versions whose rows are left behind.

    Returns:
        Old places to new ones; empty if there is no row to keep, or none that can be read.
    """
    without = list(without)
    with store.sessions.reading() as session:
        rows = purge.rows_in(session, file, but_of=without)
    good = [row for row in rows if _readable(store, row)]
    if not good:
        return {}
    moved = dict(zip(good, store.weights.copy_rows(good), strict=True))
    shapes = {row.file: store.weights.shape(row.file) for row in moved.values()}
    store.on_step("rows_moved")
    with store.sessions.writing() as session:
        tick(session, 0)
        purge.repoint(session, moved, shapes)
        store.claims.settle(session, Counter(row.file for row in moved.values()))
    return moved


def unlink_unused(store: Store, grace_h: float = GRACE_H) -> Freed:
    """Remove the weight files that nothing may use and no living writer claims."""
    size_bytes = 0
    with store.sessions.writing() as session:
        tick(session, 0)
        standing = store.claims.standing(session)
        names = purge.unused(session, standing.alive)
        removed = 0
        for name in names:
            freed = store.weights.remove(name)
            size_bytes, removed = size_bytes + freed, removed + (freed > 0)
            store.on_step("unlinked")
        purge.drop_files(session, names)
        leftovers = _unnamed(store, session, standing, grace_h)
        size_bytes += sum(map(_remove, leftovers))
        store.claims.bury(session, standing)
    store.on_step("collected")
    return Freed(removed, len(leftovers), size_bytes)


def clear_index(store: Store, grace_h: float = GRACE_H) -> Freed:
    """Remove index folders that are no longer read: set aside, or of an earlier generation."""
    gone: list[int] = []
    for folder in sorted(store.paths.index.glob("*")):
        with held(
            store.paths.locks / f"index-{folder.name}.lock",
            f"another process works on the index in {folder}",
            WAIT_S,
        ):
            gone += [_remove(path) for path in _superseded(store, folder) if _old(path, grace_h)]
    return Freed(0, len(gone), sum(gone))


def _superseded(store: Store, folder: Path) -> list[Path]:
    read = {store.index.place(name, number) for name, number in store.outbox.indexed().items()}
    return [path for path in sorted(folder.glob("*")) if path not in read]


def _unnamed(store: Store, session: Session, standing: Standing, grace_h: float) -> list[Path]:
    """Unfinished and unnamed weight files: those of dead writers, and old ones of no writer."""
    named = purge.named_files(session) | standing.alive
    paths = [*store.weights.staged(), *map(store.weights.path, store.weights.names() - named)]
    return [
        path
        for path in paths
        if path.name[:64] not in standing.alive
        and (path.name[:64] in standing.dead or _old(path, grace_h))
    ]


def _purge(store: Store, keep: RetentionConfig) -> tuple[int, int]:
    """How many versions were purged, and how many deltas of others that disabled."""
    with store.sessions.writing() as session:
        tick(session, 0)
        ids = purge.outlived(session, keep, datetime.now(UTC))
        raise_horizon(session, purge.horizon(session, ids))
        disabled = purge.remove(session, ids)
    store.on_step("purged")
    return len(ids), disabled


def _sparse(store: Store) -> list[purge.Usage]:
    with store.sessions.reading() as session:
        return purge.sparse(session, SPARSE)


def _count(store: Store, keep: RetentionConfig, grace_h: float) -> Collected:
    with store.sessions.reading() as session:
        standing = store.claims.standing(session)
        ids = purge.outlived(session, keep, datetime.now(UTC))
        disabled = len(kept(partners(session, ids)))
        unused = purge.unused(session, standing.alive)
        files = [name for name in unused if store.weights.path(name).exists()]
        leftovers = _unnamed(store, session, standing, grace_h)
    for folder in store.paths.index.glob("*"):
        leftovers += [path for path in _superseded(store, folder) if _old(path, grace_h)]
    sizes = map(_size, [*map(store.weights.path, files), *leftovers])
    sparse = len(_sparse(store))
    return Collected(
        len(ids), len(files), sparse, len(leftovers), sum(sizes), dry_run=True, disabled=disabled
    )


def _readable(store: Store, row: RowRef) -> bool:
    try:
        store.weights.verify_row(row)
    except Corrupt:
        return False
    return True


def _remove(path: Path) -> int:
    """Remove a file or folder, if it is still there; its bytes."""
    size_bytes = _size(path)
    with storage_failures(f"{path}"), suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size_bytes


def _old(path: Path, grace_h: float) -> bool:
    """Whether the file is there and was last changed over ``grace_h`` hours ago; 0 means any."""
    try:
        return grace_h == 0 or path.stat().st_mtime < time.time() - 3600 * grace_h
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    size_bytes = 0
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            size_bytes += file.stat().st_size if file.is_file() else 0
    return size_bytes
