"""A small store to be maltreated: P = 64, D = 8, vectors and rows that follow from the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapterdb.layout import DeltaLayout, Site
from adapterdb.records import Document, Passage
from adapterdb.store import NewDocument, NewPassage, Store, StoreInfo

LAYOUT = DeltaLayout(2, 4.0, (Site("layers.0.up", 20, 12, 0),))
DIMENSION = 8


def create(folder: Path) -> Store:
    """A new, empty store."""
    return Store.create(folder, StoreInfo("base", "embedder", DIMENSION, LAYOUT))


def vector(text: str) -> NDArray[np.float32]:
    """A unit vector of its own for each text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    found = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (found / np.linalg.norm(found)).astype(np.float32)


def add(
    store: Store,
    documents: Mapping[str, str],
    *,
    namespace: str = "default",
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Commit documents of one passage each, in one batch, their rows in one file."""
    texts = list(documents.values())
    seed = int.from_bytes(hashlib.sha256("".join(texts).encode()).digest()[:4], "little")
    rows = torch.randn(len(texts), LAYOUT.size, generator=torch.Generator().manual_seed(seed))
    new = []
    refs = store.write_rows(rows.to(getattr(torch, store.info.dtype)))
    for (name, text), ref in zip(documents.items(), refs, strict=True):
        passage = NewPassage(
            Passage(0, 0, len(text), text, len(text.split())), vector(text), ref, "lora", "test"
        )
        document = Document(name, text, title=name, metadata=(metadata or {}).get(name, {}))
        sha = hashlib.sha256(text.encode()).hexdigest()
        new.append(NewDocument(namespace, document, sha, "key", (passage,)))
    store.commit(new)
    store.apply_outbox(namespace)
