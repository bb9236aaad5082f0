"""Small stores for the tests: P = 64, D = 8, vectors that follow from the text."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.layout import DeltaLayout, Site
from adapterdb.records import Document, Metadata, Passage, StoredDocument
from adapterdb.store import NewDocument, NewPassage, RowRef, Store, StoreInfo
from adapterdb.store.folders import Folders
from adapterdb.store.sessions import Sessions

LAYOUT = DeltaLayout(2, 4.0, (Site("layers.0.up", 20, 12, 0),))
P, D = LAYOUT.size, 8
INFO = StoreInfo("base", "embedder", D, LAYOUT, extra={"note": "made for a test"})


def new_catalog() -> str | None:
    """URL of a catalog for a new store; None: SQLite in its folder. ``conftest`` may replace it."""
    return None


def make(folder: Path) -> Store:
    """A new, empty store."""
    return Store.create(folder, INFO, catalog_url=new_catalog())


def alter(folder: Path, *statements: str) -> None:
    """Change the catalog of the closed store in ``folder``, as no program of ours would."""
    folders = Folders(folder)
    sessions = Sessions(folders.catalog, url=folders.catalog_url())
    try:
        with sessions.migrating() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        sessions.close()


def vector(text: str) -> NDArray[np.float32]:
    """A unit vector (8,) of its own for each text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    found = np.random.default_rng(seed).standard_normal(D)
    return (found / np.linalg.norm(found)).astype(np.float32)


def rows(n: int, seed: int = 0) -> Tensor:
    """Rows (n, 64), bfloat16."""
    return torch.randn(n, P, generator=torch.Generator().manual_seed(seed)).bfloat16()


def new(
    store: Store,
    name: str,
    *texts: str,
    namespace: str = "default",
    metadata: Metadata | None = None,
    key: str = "key",
    seed: int = 0,
    parents: tuple[str, ...] = (),
) -> NewDocument:
    """A document whose passages are ``texts``, its rows written, ready to commit."""
    whole = " ".join(texts)
    refs = store.write_rows(rows(len(texts), seed))
    passages, at = [], 0
    for i, (text, ref) in enumerate(zip(texts, refs, strict=True)):
        passage = Passage(i, at, at + len(text), text, len(text.split()))
        made = NewPassage(passage, vector(text), ref, "gradient", "test", 2.0, 1.5, parents=parents)
        passages.append(made)
        at += len(text) + 1
    document = Document(name, whole, title=name.title(), source="", metadata=metadata or {})
    sha = hashlib.sha256(whole.encode()).hexdigest()
    return NewDocument(namespace, document, sha, key, tuple(passages))


def on_rows(document: NewDocument, *refs: RowRef) -> NewDocument:
    """The same document with its deltas in rows that are there already."""
    entries = [replace(entry, row=ref) for entry, ref in zip(document.passages, refs, strict=True)]
    return replace(document, passages=tuple(entries))


def add(
    store: Store,
    name: str,
    *texts: str,
    namespace: str = "default",
    metadata: Metadata | None = None,
    key: str = "key",
    seed: int = 0,
    parents: tuple[str, ...] = (),
) -> StoredDocument:
    """The same, committed; the index is left to the store."""
    fields = {"namespace": namespace, "metadata": metadata, "key": key, "seed": seed}
    return store.commit([new(store, name, *texts, parents=parents, **fields)])[0]


def found(store: Store, text: str, n: int = 10, namespace: str = "default") -> list[str]:
    """Texts of the passages nearest to ``text``, best first."""
    return [hit.passage.text for hit in store.search_vectors(namespace, vector(text), n)]
