"""The tester's own record: what was begun, what was acknowledged, and what must therefore be there.

A worker writes one line before an operation and one after it, outside the home. Replaying the lines
gives a ``Model`` of what must be found, to the last version number, and the one operation that may
or may not have happened. The database is never asked.

A line is written by one ``writev`` to a file opened for appending: a kill leaves it whole or not
there, and the faults that strace injects into ``write`` spare it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.contents import Content

Key = tuple[str, str]  # namespace and name
Change = dict[str, Any]  # one effect on one name, as it stands in the log


@dataclass(frozen=True)
class History:
    """All versions of a name, the first one first.

    Args:
        active: the last one is to be found.
        expired: deleted versions may have been collected.
    """

    versions: tuple[Content, ...] = ()
    active: bool = False
    expired: bool = False


def put(content: Content) -> Change:
    """A new version, of a new name or a known one."""
    return {"kind": "put", "key": [content.namespace, content.name], "content": content.to_dict()}


def delete(key: Key) -> Change:
    """No version of the name is found any more."""
    return {"kind": "delete", "key": list(key)}


def forget(key: Key) -> Change:
    """The name and all its versions are gone for good."""
    return {"kind": "forget", "key": list(key)}


def expire(key: Key) -> Change:
    """The name is deleted already, and may not be brought back from now on."""
    return {"kind": "expire", "key": list(key)}


def revive(key: Key, version: int) -> Change:
    """A version comes back, as the newest one."""
    return {"kind": "revive", "key": list(key), "version": version}


# what a change makes of the history of its name; a new kind of change needs one entry here
EFFECTS: dict[str, Callable[[History, Change], History]] = {
    "put": lambda old, change: History(
        (*old.versions, Content.from_dict(change["content"])), active=True
    ),
    "delete": lambda old, change: History(old.versions, active=False),
    "forget": lambda old, change: History(),
    "expire": lambda old, change: History(old.versions, active=False, expired=True),
    "revive": lambda old, change: History(
        (*old.versions, old.versions[change["version"] - 1]), active=True
    ),
}


@dataclass(frozen=True)
class Model:
    """What must be found: the history of every name."""

    names: Mapping[Key, History] = field(default_factory=dict)

    def after(self, changes: Iterable[Change]) -> Model:
        """The model once these changes have happened."""
        names = dict(self.names)
        for change in changes:
            key = (change["key"][0], change["key"][1])
            names[key] = EFFECTS[change["kind"]](names.get(key, History()), change)
        return Model(names)

    @property
    def active(self) -> dict[Key, tuple[int, Content]]:
        """Version number and content of everything that must be found."""
        return {
            key: (len(history.versions), history.versions[-1])
            for key, history in self.names.items()
            if history.active
        }


@dataclass(frozen=True)
class Account:
    """What a log says.

    Args:
        model: everything acknowledged.
        pending: changes of the operation begun and not acknowledged; None if there is none.
        operation: its name, and how many were begun before it; used to number the next ones.
        acknowledged: documents changed by acknowledged operations.
        operations: those acknowledged, by name.
        ended: the last line about how a worker ended: ``failed``, ``crashed`` or ``died``.
    """

    model: Model
    pending: list[Change] | None
    operation: str
    begun: int
    acknowledged: int
    operations: dict[str, int]
    ended: dict[str, Any] | None


class Ledger:
    """A log at ``path``; several workers in turn may continue it, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.begun = read(path).begun

    def begin(self, operation: str, changes: list[Change]) -> None:
        """Before an operation."""
        self.begun += 1
        self.write({"event": "begin", "op": operation, "changes": changes})

    def done(self) -> None:
        """The acknowledgement of the operation begun last."""
        self.write({"event": "done"})

    def settle(self, *, happened: bool) -> None:
        """What the judge found of the operation that was pending: it happened wholly, or not."""
        self.write({"event": "settled", "happened": happened})

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        os.writev(self._file, [json.dumps(line, separators=(",", ":")).encode() + b"\n"])

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def read(path: Path) -> Account:
    """Replay the log at ``path``; an unfinished last line is ignored."""
    text = path.read_text() if path.exists() else ""
    return replay(text)


def replay(text: str) -> Account:
    """What the lines of a log add up to."""
    model, pending, operation, begun, acknowledged = Model(), None, "", 0, 0
    operations: dict[str, int] = {}
    ended = None
    for line in text[: text.rfind("\n") + 1].splitlines():
        entry = json.loads(line)
        event = entry["event"]
        if event == "begin":
            assert pending is None, "an operation was begun before the last one was settled"
            pending, operation, begun = entry["changes"], entry["op"], begun + 1
        elif event in ("done", "settled"):
            assert pending is not None
            if event == "done" or entry["happened"]:
                model = model.after(pending)
            if event == "done":
                acknowledged += len(pending)
                operations[operation] = operations.get(operation, 0) + 1
            pending = None
        else:
            ended = entry
    return Account(model, pending, operation, begun, acknowledged, operations, ended)
