"""A home that random things happen to, handles on it, and what must hold after each of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from hypothesis.stateful import RuleBasedStateMachine, invariant
from state_model import INFO, Draft, Key, Model, check_nearest, check_words, vector

from adapterdb.errors import NotFound
from adapterdb.store import NewDocument, Store

SPACES = ("default", "other")
NAMES = ("a", "b", "c", "d", "d@1")
EVERYTHING = 1000
# no power is cut here: nothing is gained by waiting for a disk
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class StoreHome(RuleBasedStateMachine):
    """A home and the model of what it should hold; rules are added by whoever inherits.

    Attributes:
        new_catalog: where the catalog of the next home lies; None: in the home.
        done: how often each rule was carried out, over all examples.
        stores: open handles; ``hung``: handles that are neither used nor closed.
        ahead: documents whose rows are written, and by which handle, but which are not committed.
        damaged: namespaces whose index was damaged.
    """

    new_catalog: ClassVar[Callable[[], str | None]] = staticmethod(lambda: None)
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="states-", dir=MEMORY))
        self.home = self.folder / "home"
        self.url = self.new_catalog()
        self.stores = [Store.create(self.home, INFO, catalog_url=self.url)]
        self.hung: list[Store] = []
        self.ahead: list[tuple[Store, Draft, NewDocument]] = []
        self.model = Model()
        self.damaged: set[str] = set()
        self.steps = 0

    def teardown(self) -> None:
        """Close what is open and remove the home."""
        for store in self.stores + self.hung:
            store.close()
        shutil.rmtree(self.folder)

    def store(self, handle: int) -> Store:
        """One of the open handles."""
        return self.stores[handle % len(self.stores)]

    def count(self, what: str) -> None:
        """Remember that a rule was carried out."""
        self.done[what] += 1

    def at(self) -> str:
        """The time of the last change."""
        return self.stores[0].changes.now().at

    # what holds after every step

    @invariant()
    def agrees(self) -> None:
        """One of the handles lists, reads and finds exactly what the model holds."""
        self.steps += 1
        self.count("steps_taken")
        store = self.store(self.steps)
        self.check_documents(store)
        self.check_searches(store, SPACES[self.steps % 2 :][:1])
        self.check_rows(store)
        self.check_history(store)

    def check_documents(self, store: Store) -> None:
        """The listing is that of the model."""
        want = [v for space in SPACES for v in self.model.found(space)]
        listed = store.documents(limit=EVERYTHING)
        assert [(d.namespace, d.name, d.version, d.metadata, d.seq) for d in listed] == [
            (*v.draft.key, v.number, {"year": v.draft.year}, v.seq) for v in want
        ]
        for document, version in zip(listed, want, strict=True):
            assert store.text(document.id) == version.draft.text
            passages = store.passages(document.id)
            assert [p.text for p in passages] == list(version.draft.texts)
            rows = torch.stack([store.read_row(passage.row) for passage in passages])
            assert rows.equal(version.draft.rows), f"other rows in {version}"

    def check_searches(self, store: Store, spaces: Sequence[str] = SPACES) -> None:
        """Searches find what brute force finds, in their namespace only."""
        for space in spaces:
            places = self.model.places(self.model.found(space))
            for n, query in ((2, vector("alpha")), (EVERYTHING, vector("beta"))):
                hits = store.search_vectors(space, query, n)
                assert all(hit.passage.namespace == space for hit in hits)
                check_nearest(hits, places, query, n)
            hits = store.search_text(space, "gamma", EVERYTHING)
            assert all(hit.passage.namespace == space for hit in hits)
            check_words(hits, places, "gamma")

    def check_rows(self, store: Store) -> None:
        """The row of every version that can come back is there, and there are no others."""
        refs = store.catalog.all_row_refs()
        stored = sum(len(v.draft.texts) for v in self.model.stored())
        assert len(refs) == stored, (len(refs), stored)
        for _, ref in refs:
            assert store.weights.path(ref.file).exists(), f"{ref.file} is lost"
        for _, _, document in self.ahead:
            for passage in document.passages:
                assert store.weights.path(passage.row.file).exists(), "a file written ahead is lost"

    def check_history(self, store: Store) -> None:
        """The history of a name is that of the model."""
        keys: list[Key] = [(space, name) for space in SPACES for name in NAMES]
        key = keys[self.steps % len(keys)]
        log, stored = self.model.log.get(key, []), self.model.versions.get(key, [])
        kept = {v.number for v in stored}
        want = [(*entry, entry[2] in kept) for entry in reversed(log)]
        try:
            found = [(c.seq, c.op, c.version, c.kept) for c in store.history(*key)]
        except NotFound:
            found = []
        assert found == want, key
        earlier = [v for v in stored if v.state == "retired"]
        for version in earlier:
            document = store.document(key[0], f"{key[1]}@{version.number}")
            assert document.version == version.number or self.model.active(
                (key[0], f"{key[1]}@{version.number}")
            )
