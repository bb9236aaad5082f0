"""Tidying what grows with use: the tables of the index, and the database's own figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterdb.store.applier import Optimized

if TYPE_CHECKING:
    from adapterdb.store.store import Store


def optimize(
    store: Store, namespace: str | None = None, *, timeout_s: float = 600.0
) -> list[Optimized]:
    """Tidy the index and hold it against the catalog; rebuild it where they differ.

    Readers and writers go on meanwhile.

    Args:
        store: open for writing.
        namespace: None means every namespace that has an index.
        timeout_s: how long to wait for other processes at work on an index.

    Raises:
        Locked: if that was not long enough.
    """
    store.check_writable()
    store.sessions.analyze()
    names = {*store.outbox.indexed(), *store.outbox.namespaces()}
    chosen = sorted(names if namespace is None else names & {namespace})
    return [store.applier.optimize(name, timeout_s) for name in chosen]
