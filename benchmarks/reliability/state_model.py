"""What a store should hold, as plain dicts, and what it should therefore find: the oracle of T10.

A ``Draft`` is one version of a document before it is stored; its vectors and the bits of its rows
follow from it. ``Model`` is told of every change and never asks the store anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from contents import INFO, P, vector
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.config import RetentionConfig
from adapterdb.errors import AdapterDBError
from adapterdb.records import Document, Passage
from adapterdb.store import NewDocument, NewPassage, Scored, Store

__all__ = [
    "INFO",
    "Draft",
    "Key",
    "Model",
    "Place",
    "Version",
    "new_documents",
    "refused",
    "vector",
]

Key = tuple[str, str]  # namespace, name
Place = tuple[str, int, int]  # name, version, ordinal of a passage
CLOSE = 1e-5  # scores that differ by less may be in any order


@dataclass(frozen=True)
class Draft:
    """A document to be stored.

    Args:
        seed: its rows follow from it; equal seeds and sizes make equal rows, and equal files.
    """

    namespace: str
    name: str
    texts: tuple[str, ...]
    year: int
    seed: int

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def text(self) -> str:
        """The whole document."""
        return " ".join(self.texts)

    @property
    def ingest_key(self) -> str:
        """What an ingest would compare to see that there is nothing to do."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    @property
    def rows(self) -> Tensor:
        """Delta rows (n, P), bfloat16."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(len(self.texts), P, generator=generator).bfloat16()


def new_documents(store: Store, drafts: Sequence[Draft]) -> list[NewDocument]:
    """Write the rows of all drafts as one weight file; the documents, ready to be committed."""
    refs = iter(store.write_rows(torch.cat([draft.rows for draft in drafts])))
    made = []
    for draft in drafts:
        passages, at = [], 0
        for i, text in enumerate(draft.texts):
            passage = Passage(i, at, at + len(text), text, len(text.split()))
            passages.append(NewPassage(passage, vector(text), next(refs), "gradient", "test"))
            at += len(text) + 1
        sha = hashlib.sha256(draft.text.encode()).hexdigest()
        document = Document(draft.name, draft.text, metadata={"year": draft.year})
        new = NewDocument(draft.namespace, document, sha, draft.ingest_key, tuple(passages))
        made.append(new)
    return made


@dataclass
class Version:
    """A stored version: found from change ``seq`` on until change ``until``."""

    draft: Draft
    number: int
    seq: int
    state: str = "active"
    until: int | None = None
    until_at: str = ""

    def visible(self, as_of: int | None) -> bool:
        """Whether it is found now (None), or as of a change."""
        if as_of is None:
            return self.state == "active"
        began = self.state != "deleted" and self.seq <= as_of
        return began and (self.until is None or self.until > as_of)


@dataclass
class Model:
    """Every stored version of every name, and the log of what happened to it.

    Args:
        seq: number of the last change; ``horizon``: the earliest that can be asked for.
        log: changes of a name as (number, operation, version), the first one first.
    """

    seq: int = 0
    horizon: int = 0
    versions: dict[Key, list[Version]] = field(default_factory=dict)
    log: dict[Key, list[tuple[int, str, int]]] = field(default_factory=dict)
    deleted_at: dict[Key, str] = field(default_factory=dict)

    # changing

    def put(self, draft: Draft, at: str, op: str = "put") -> None:
        """A new version, committed at ``at``."""
        self.seq += 1
        active = self.active(draft.key)
        if active is not None:
            active.state, active.until, active.until_at = "retired", self.seq, at
        log = self.log.setdefault(draft.key, [])
        number = max((version for _, _, version in log), default=0) + 1
        self.versions.setdefault(draft.key, []).append(Version(draft, number, self.seq))
        log.append((self.seq, op, number))

    def delete(self, keys: Sequence[Key], at: str) -> None:
        """Take documents out of every answer, in this order."""
        for key in keys:
            self.seq += 1
            active = self.active(key)
            assert active is not None
            active.until, active.until_at = self.seq, at
            for version in self.versions[key]:
                version.state = "deleted"
            self.log[key].append((self.seq, "delete", active.number))
            self.deleted_at[key] = at

    def rollback(self, key: Key, number: int, at: str) -> None:
        """A stored version comes back as the newest one."""
        old = next(v for v in self.versions[key] if v.number == number)
        self.put(old.draft, at, "rollback")

    def forget(self, keys: Sequence[Key]) -> None:
        """Nothing is known of these names any more."""
        self.seq += len(keys)
        for key in keys:
            for known in (self.versions, self.log, self.deleted_at):
                known.pop(key, None)  # type: ignore[attr-defined]

    def collect(self, keep: RetentionConfig, now: str) -> int:
        """Drop the versions that ``keep`` does not keep; how many. Its days are 0 or many."""
        gone = 0
        for key, versions in self.versions.items():
            retired = [v for v in versions if v.state == "retired"]
            many = (
                retired[: max(0, len(retired) - keep.versions)] if keep.versions is not None else []
            )
            old = [v for v in retired if keep.days == 0 and v.until_at <= now]
            dead = [
                v
                for v in versions
                if v.state == "deleted" and keep.deleted_days == 0 and self.deleted_at[key] <= now
            ]
            for version in retired:
                if version in many or version in old:
                    self.horizon = max(self.horizon, version.until or 0)
            left = [v for v in versions if not any(v is w for w in (*many, *old, *dead))]
            gone += len(versions) - len(left)
            self.versions[key] = left
        self.versions = {key: versions for key, versions in self.versions.items() if versions}
        return gone

    # asking

    def active(self, key: Key) -> Version | None:
        """The active version of a name."""
        return next((v for v in self.versions.get(key, []) if v.state == "active"), None)

    def stored(self) -> Iterator[Version]:
        """Every version that can still be brought back."""
        for versions in self.versions.values():
            yield from versions

    def found(
        self, namespace: str, as_of: int | None = None, since: int | None = None
    ) -> list[Version]:
        """Versions found now or as of a change, whose year is at least ``since``, by name."""
        return sorted(
            (
                v
                for v in self.stored()
                if v.draft.namespace == namespace
                and v.visible(as_of)
                and (since is None or v.draft.year >= since)
            ),
            key=lambda v: v.draft.name,
        )

    def names(self, namespace: str, since: int | None = None) -> list[str]:
        """Names of the active documents."""
        return [v.draft.name for v in self.found(namespace, since=since)]

    def places(self, versions: Sequence[Version]) -> dict[Place, str]:
        """The text of every passage of these versions."""
        return {
            (v.draft.name, v.number, i): text
            for v in versions
            for i, text in enumerate(v.draft.texts)
        }


@contextmanager
def refused(kind: type[AdapterDBError], code: str = "") -> Iterator[None]:
    """The body must raise this error."""
    try:
        yield
    except kind as error:
        if code and error.code != code:
            raise
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def place(hit: Scored) -> Place:
    """Which passage was found."""
    return hit.passage.document, hit.passage.version, hit.passage.ordinal


def check_nearest(
    hits: Sequence[Scored], places: dict[Place, str], query: NDArray[np.float32], n: int
) -> None:
    """The hits are the ``n`` best of ``places`` by brute force, in order up to ties."""
    want = {where: float(vector(text) @ query) for where, text in places.items()}
    found = [place(hit) for hit in hits]
    assert len(found) == len(set(found)) == min(n, len(want)), (found, want)
    best = sorted(want.values(), reverse=True)
    for hit, where, score in zip(hits, found, best, strict=False):
        assert where in want, f"{where} should not be found"
        assert hit.passage.text == places[where]
        # the score itself is right, and as good as the best score for this rank
        assert abs(hit.score - want[where]) < CLOSE, (where, hit.score, want[where])
        assert abs(want[where] - score) < CLOSE, (where, found, want)


def check_words(hits: Sequence[Scored], places: dict[Place, str], word: str) -> None:
    """Exactly the passages with the word were found."""
    found = sorted(place(hit) for hit in hits)
    want = sorted(where for where, text in places.items() if word in text.split())
    assert found == want, (word, found, want)
