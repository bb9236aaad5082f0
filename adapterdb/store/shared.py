"""What all deltas of a home share and is trained apart from them: versions of named tensors.

A shared part (a meta-init, a task-tuned start, a token weigher) is kept as one weight file and two
texts of the catalog. Versions count upwards and are never changed or removed, since deltas name
the part they were made from by its fingerprint. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from adapterdb.errors import NotFound
from adapterdb.records import Record
from adapterdb.store.changes import tick
from adapterdb.store.tables import InfoTable

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from torch import Tensor

    from adapterdb.store.store import Store

_PREFIX = "shared:"


@dataclass(frozen=True)
class SharedPart(Record):
    """A version of a shared part.

    Args:
        kind: what it is, a word of the caller's.
        version: counts from 1 for each kind.
        fingerprint: what deltas name it by.
        made_at: UTC.
        facts: how it was made, as JSON-able data.
    """

    kind: str
    version: int
    fingerprint: str
    made_at: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``kind@version``, under which the store keeps its tensors."""
        return f"{self.kind}@{self.version}"


class Shared:
    """The shared parts of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(
        self,
        kind: str,
        tensors: Mapping[str, Tensor],
        *,
        fingerprint: str,
        facts: Mapping[str, Any] | None = None,
    ) -> SharedPart:
        """Keep a new version, durably; a part that is the latest of its kind already stays that.

        Raises:
            StorageFailed: nothing is kept.
        """
        store = self._store
        store.check_writable()
        latest = self.latest(kind)
        if latest is not None and latest.fingerprint == fingerprint:
            return latest
        with store.sessions.guarded():
            file = store.weights.write_tensors(tensors)
        with store.sessions.writing() as session:
            tick(session, 0)  # versions are counted by one writer at a time
            version = 1 + max((part.version for part in _parts(session, kind)), default=0)
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            part = SharedPart(kind, version, fingerprint, made_at, dict(facts or {}))
            texts = {f"tensors:{part.name}": file, _PREFIX + part.name: json.dumps(part.to_dict())}
            store.catalog.remember(session, texts)
            store.claims.settle(session, {file: 1})
        return part

    def again(self, name: str) -> SharedPart:
        """Keep a part anew as the newest of its kind; NotFound if there is none of that name."""
        part = next((part for part in self.parts() if part.name == name), None)
        if part is None:
            raise NotFound(f"the home keeps no part {name!r}", hint="'adb train parts' lists them")
        facts = {**part.facts, "again": name}
        return self.keep(part.kind, self.tensors(part), fingerprint=part.fingerprint, facts=facts)

    def parts(self, kind: str | None = None) -> list[SharedPart]:
        """Every part, or those of one kind, by kind and version."""
        with self._store.sessions.reading() as session:
            return _parts(session, kind)

    def latest(self, kind: str) -> SharedPart | None:
        """The newest version of ``kind``; None if there is none."""
        found = self.parts(kind)
        return found[-1] if found else None

    def find(self, fingerprint: str) -> SharedPart:
        """The newest part with this fingerprint; NotFound."""
        for part in reversed(self.parts()):
            if part.fingerprint == fingerprint:
                return part
        raise NotFound(f"the home keeps no shared part with fingerprint {fingerprint[:12]}")

    def tensors(self, part: SharedPart) -> dict[str, Tensor]:
        """Its tensors; Corrupt if their file is lost or damaged."""
        return self._store.read_tensors(part.name)


def _parts(session: Session, kind: str | None) -> list[SharedPart]:
    wanted = _PREFIX if kind is None else f"{_PREFIX}{kind}@"
    query = select(InfoTable.value).where(InfoTable.name.startswith(wanted, autoescape=True))
    found = [SharedPart(**json.loads(value)) for value in session.scalars(query)]
    return sorted(found, key=lambda part: (part.kind, part.version))
