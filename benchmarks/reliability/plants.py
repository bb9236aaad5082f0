"""Bugs planted in a worker, to prove that the judge can find them.

Each puts one step of the store's commit order in the wrong place, as a careless change might.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from adapterdb.records import StoredDocument
from adapterdb.store import NewDocument, Store
from adapterdb.store.index import Index
from adapterdb.store.outbox import Batch, Outbox
from adapterdb.store.weights import Weights


def plant(name: str) -> None:
    """Patch this process with the bug ``name``; nothing if it is empty."""
    if name:
        PLANTS[name]()


def _commit_before_file() -> None:
    """The catalog's transaction is committed before the weight file has its final name."""
    commit, shape = Store.commit, Weights.shape
    shapes: dict[str, Any] = {}

    def late_commit(store: Store, documents: Sequence[NewDocument]) -> list[StoredDocument]:
        files = {entry.row.file for document in documents for entry in document.passages}
        paths = [store.weights.path(file) for file in files]
        shapes.update({file: shape(store.weights, file) for file in files})
        for path in paths:
            path.rename(path.with_suffix(".late"))
        stored = commit(store, documents)
        for path in paths:
            path.with_suffix(".late").rename(path)
        return stored

    _set(Store, "commit", late_commit)
    _set(Weights, "shape", lambda weights, name: shapes.get(name) or shape(weights, name))


def _outbox_before_index() -> None:
    """The outbox is cleared before the index has what was in it."""
    fetch, put = Outbox.fetch, Index.apply

    def early_fetch(outbox: Outbox, namespace: str) -> Batch:
        batch = fetch(outbox, namespace)
        if batch.seqs:
            outbox.clear(batch.seqs)
        return batch

    def late_put(index: Index, *args: Any) -> None:
        hooks["cleared"]("outbox_cleared")
        put(index, *args)

    opened = Store.__init__
    hooks: dict[str, Callable[[str], None]] = {}

    def remember(store: Store, *args: Any, on_step: Callable[[str], None], **more: Any) -> None:
        hooks["cleared"] = on_step
        opened(store, *args, on_step=on_step, **more)

    _set(Store, "__init__", remember)
    _set(Outbox, "fetch", early_fetch)
    _set(Index, "apply", late_put)


def _unsynced_file() -> None:
    """Weight files and folders are never synced; the catalog, whose driver is C, is."""
    _set(os, "fsync", lambda descriptor: None)


def _acknowledged_too_early() -> None:
    """The worker says "done" before it commits; see ``workload.Turn.pending``."""


PLANTS: dict[str, Callable[[], None]] = {
    "commit_before_file": _commit_before_file,
    "outbox_before_index": _outbox_before_index,
    "unsynced_file": _unsynced_file,
    "acknowledged_too_early": _acknowledged_too_early,
}


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)
