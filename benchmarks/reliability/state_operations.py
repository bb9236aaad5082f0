"""The operations of T10 that a child process is killed in the midst of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from state_model import Draft, Key, new_documents

from adapterdb.config import RetentionConfig
from adapterdb.store import Store
from adapterdb.store.upkeep.forget import forget
from adapterdb.store.upkeep.gc import collect

DIED = 9


def put(store: Store, drafts: Sequence[Draft]) -> None:
    """Store drafts in one commit."""
    store.commit(new_documents(store, drafts))


def delete(store: Store, namespace: str, names: Sequence[str]) -> None:
    """Delete documents by name."""
    store.delete(namespace, names)


def rollback(store: Store, key: Key, version: int) -> None:
    """Bring a version back."""
    store.rollback(*key, version)


def erase(store: Store, namespace: str, names: Sequence[str]) -> None:
    """Forget documents by name."""
    forget(store, namespace, names)


def gather(store: Store, keep: RetentionConfig) -> None:
    """Collect garbage without grace."""
    collect(store, keep, grace_h=0)


def apply(store: Store) -> None:
    """Bring the index up to date."""
    store.apply_outbox()


def rebuild(store: Store, namespace: str) -> None:
    """Build an index anew."""
    store.applier.rebuild(namespace, 30)


OPERATIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (put, delete, rollback, erase, gather, apply, rebuild)
}

# steps of the store that each operation may pass
STEPS_OF = {
    "put": ("claimed", "staged", "synced", "renamed", "durable", "before_commit", "committed"),
    "delete": ("committed",),
    "rollback": ("committed",),
    "erase": (
        *("forget_marked", "claimed", "durable", "rows_moved", "forget_purged", "unlinked"),
        *("collected", "index_built", "index_pointed", "forget_indexed", "forget_searched"),
    ),
    "gather": ("purged", "claimed", "durable", "rows_moved", "unlinked", "collected"),
    "apply": ("index_put", "outbox_cleared", "index_built", "index_pointed"),
    "rebuild": ("index_built", "index_pointed"),
}


def operate(
    home: str, url: str | None, step: str, occurrence: int, operation: str, arguments: Sequence[Any]
) -> None:
    """In a child: do one operation and die when ``step`` is reached for the nth time, or after."""
    passed = 0

    def on_step(now: str) -> None:
        nonlocal passed
        passed += now == step
        if passed == occurrence:
            os._exit(DIED)

    store = Store.open(Path(home), catalog_url=url, on_step=on_step)
    OPERATIONS[operation](store, *arguments)
    os._exit(0)  # without closing: claims are left behind
