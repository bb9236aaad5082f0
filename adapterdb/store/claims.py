"""Which writer is about to name which weight file, so that no such file is collected.

A writer claims a file before it makes it, and the commit that names the file drops the claim. A
claim counts for as long as its writer lives, which a lock file tells: the system lets go of it
when the process ends, however it ends. No clock is asked.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from adapterdb.errors import Locked, StorageFailed
from adapterdb.store.changes import tick
from adapterdb.store.failures import storage_failures
from adapterdb.store.sessions import Sessions
from adapterdb.store.tables import ClaimTable


class Standing(NamedTuple):
    """Files claimed by writers that live, files claimed by writers that died, and the latter."""

    alive: set[str]
    dead: set[str]
    writers: set[str]


class Claims:
    """Claims of one writer, and what is known of the others.

    Args:
        folder: of the writers' lock files.
    """

    def __init__(self, sessions: Sessions, folder: Path) -> None:
        self._sessions = sessions
        self._folder = folder
        self._writer = uuid4().hex
        self._alive: FileLock | None = None
        self._process = os.getpid()
        self._open: Counter[str] = Counter()  # rows claimed and not named yet, by file
        self._shared: defaultdict[str, set[int]] = defaultdict(set)  # named of them, by file
        self._lock = threading.Lock()

    def claim(self, file: str, rows: int) -> None:
        """Say, durably, that this writer is about to write ``file`` and to name its rows."""
        with self._lock:
            self._open[file] += rows
            self._shared.pop(file, None)
        if self._alive is None:
            with storage_failures(f"lock folder {self._folder}"):
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self._lock_file(self._writer))
                lock.acquire(timeout=0)
            self._alive = lock
        with self._sessions.writing() as session:
            tick(session, 0)  # waits for a collection that is running
            if session.get(ClaimTable, (file, self._writer)) is None:
                session.add(ClaimTable(file=file, writer=self._writer))

    def settle(
        self,
        session: Session,
        named: Mapping[str, int],
        shared: Iterable[tuple[str, int]] = (),
    ) -> None:
        """In the transaction that names rows of files: with its last row a claim is dropped.

        Until then it stands, also if the file is named already: what names it may go again before
        the next commit.

        Args:
            named: how many rows of each file are named.
            shared: file and offset of further rows, which count when they are first named: later
                commits may name them again.
        """
        done = []
        with self._lock:
            count = Counter(named)
            for file, offset in shared:
                count[file] += offset not in self._shared[file]
                self._shared[file].add(offset)
            for file, rows in count.items():
                self._open[file] -= rows
                if self._open[file] <= 0:
                    del self._open[file]
                    self._shared.pop(file, None)
                    done.append(file)
        chosen = ClaimTable.writer == self._writer, ClaimTable.file.in_(done)
        session.execute(delete(ClaimTable).where(*chosen))

    def standing(self, session: Session) -> Standing:
        """The files claimed now, by writers that live and by writers that died."""
        claims = session.execute(select(ClaimTable.file, ClaimTable.writer)).all()
        dead = {writer for writer in {c.writer for c in claims} if self._is_dead(writer)}
        return Standing(
            {claim.file for claim in claims if claim.writer not in dead},
            {claim.file for claim in claims if claim.writer in dead},
            dead,
        )

    def bury(self, session: Session, standing: Standing) -> None:
        """Drop the claims of writers that died, and their lock files."""
        session.execute(delete(ClaimTable).where(ClaimTable.writer.in_(standing.writers)))
        for writer in standing.writers:
            with suppress(OSError):
                self._lock_file(writer).unlink()

    def release(self) -> None:
        """Drop the claims of this writer, who writes no more; a forked child has none."""
        if self._alive is None or self._process != os.getpid():
            return
        # a claim whose lock is gone counts for nothing, so this may fail
        with suppress(StorageFailed, Locked), self._sessions.writing() as session:
            session.execute(delete(ClaimTable).where(ClaimTable.writer == self._writer))
        self._alive.release()
        with suppress(OSError):
            self._lock_file(self._writer).unlink()
        self._alive = None

    def _lock_file(self, writer: str) -> Path:
        return self._folder / f"{writer}.lock"

    def _is_dead(self, writer: str) -> bool:
        if writer == self._writer:
            return False
        path = self._lock_file(writer)
        if not path.exists():
            return True
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # held; or a file system that can't be written
            return False
        lock.release()
        return True
