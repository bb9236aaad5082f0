"""What may befall a home: killed processes, lost files, wrong bytes, clocks that jump."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

os.environ.setdefault("LANCE_LOG", "error")

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from state_home import NAMES, SPACES, StoreHome
from state_model import Draft, refused
from state_operations import DIED, STEPS_OF, operate

from adapterdb.config import RetentionConfig
from adapterdb.errors import Corrupt
from adapterdb.store import Store, check
from adapterdb.store.upkeep.forget import resume, unfinished
from adapterdb.store.upkeep.gc import collect

FORKS = multiprocessing.get_context("forkserver")
WORDS = ("alpha", "beta", "gamma", "delta")
YEARS = (1990, 2000, 2010)
# what a child may be killed in; the quick ones never touch the index
QUICK, SLOW = ("put", "delete", "rollback", "gather"), ("erase", "apply", "rebuild")

spaces, names, words, years = map(st.sampled_from, (SPACES, NAMES, WORDS, YEARS))
texts = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3)
drafts = st.builds(Draft, spaces, names, texts.map(tuple), years, st.integers(0, 5))
retentions = st.builds(
    RetentionConfig,
    st.sampled_from((None, 0, 1)),
    st.sampled_from((None, 0.0, 30.0)),
    st.sampled_from((0.0, 30.0)),
)
handles = st.integers(0, 7)
numbers = st.integers(0, 2**32 - 1)


def now() -> str:
    """The time, as the log of changes writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Misfortunes(StoreHome):
    """Rules that no user would call.

    Attributes:
        killable: operations that a child may be killed in.
    """

    killable: ClassVar[Sequence[str]] = QUICK

    @rule(data=st.data(), occurrence=st.sampled_from((1, 1, 1, 2)))
    def killed(self, data: st.DataObject, occurrence: int) -> None:
        """A process dies in the midst of an operation: it happened wholly, or not at all."""
        operation, arguments = self.an_operation(data)
        step = data.draw(st.sampled_from(STEPS_OF[operation]))
        child = FORKS.Process(
            target=operate,
            args=(str(self.home), self.url, step, occurrence, operation, arguments),
        )
        child.start()
        child.join(120)
        assert child.exitcode in (0, DIED), (operation, arguments, child.exitcode)
        self.count("killed" if child.exitcode == DIED else "not killed")
        happened = self.stores[0].changes.now().seq != self.model.seq
        assert happened or child.exitcode == DIED or operation in ("gather", "apply", "rebuild")
        match operation, arguments:
            case "put", (new,) if happened:
                for draft in new:
                    self.model.put(draft, self.at())
            case "delete", (space, wanted) if happened:
                self.model.delete([(space, name) for name in wanted], self.at())
            case "rollback", (key, version) if happened:
                self.model.rollback(key, version, self.at())
            case "erase", (space, wanted) if happened:
                self.model.forget([(space, name) for name in wanted])
                resume(self.stores[0])
                assert not unfinished(self.stores[0])
            case "gather", (keep,):
                moment = now()
                collect(self.stores[0], keep, grace_h=0)
                self.model.collect(keep, moment)

    def an_operation(self, data: st.DataObject) -> tuple[str, tuple[Any, ...]]:
        """One that can be carried out now."""
        operation, space = data.draw(st.sampled_from(self.killable)), data.draw(spaces)
        active = self.model.names(space)
        stored = [v for v in self.model.stored() if v.draft.namespace == space]
        if operation in ("delete", "erase") and active:
            return operation, (
                space,
                sorted(data.draw(st.sets(st.sampled_from(active), min_size=1))),
            )
        if operation == "rollback" and stored:
            version = data.draw(st.sampled_from(range(len(stored))))
            return operation, (stored[version].draft.key, stored[version].number)
        if operation == "gather":
            return operation, (data.draw(retentions),)
        if operation == "apply":
            return operation, ()
        if operation == "rebuild":
            return operation, (space,)
        return "put", (data.draw(st.lists(drafts, min_size=1, max_size=2)),)

    @rule(space=spaces, whole=st.booleans(), count=st.integers(1, 4))
    def damage_index(self, space: str, whole: bool, count: int) -> None:
        """The index is lost, or its newest files are emptied, as a power cut may do."""
        index = self.stores[0].index
        place = index.place(space, self.stores[0].outbox.indexed().get(space, 0))
        if not place.exists():
            return
        self.count("damage index")
        self.damaged.add(space)
        if whole:
            shutil.rmtree(place)
            return
        files = sorted(
            (path for path in place.rglob("*") if path.is_file()),
            key=lambda path: path.stat().st_mtime_ns,
        )
        for path in files[-count:]:
            path.write_bytes(b"")

    @precondition(
        lambda self: self.model.versions and self.steps % 3 == 0
    )  # slow, and often chosen
    @rule(choice=numbers)
    def wrong_row_file(self, choice: int) -> None:
        """Other bytes in a weight file are never read as rows; stray files do no harm."""
        self.count("wrong row file")
        weights = self.stores[0].weights
        files = sorted(weights.names())
        path = weights.path(files[choice % len(files)])
        data = path.read_bytes()
        stray = weights.path(f"{choice:064x}")
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(data)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with Store.open(self.home, read_only=True, catalog_url=self.url) as fresh:
            named = path.stem in fresh.catalog.weight_files()
            assert named == ("sha_mismatch" in [f.code for f in check(fresh, deep=True)])
            for _, ref in fresh.catalog.all_row_refs():
                if ref.file == path.stem and ref.offset + ref.size_bytes == len(data):
                    with refused(Corrupt, "sha_mismatch"):
                        fresh.read_row(ref)
        path.write_bytes(data)

    @rule(days=st.sampled_from((-3650, -1, 1, 3650)), files=st.booleans())
    def clock_jumps(self, days: int, files: bool) -> None:
        """The clock of the catalog, and the times of files, are suddenly others."""
        self.count("clock jump")
        jumped = datetime.fromtimestamp(time.time() + 86400 * days, UTC)
        at = jumped.isoformat(timespec="milliseconds")
        with self.stores[0].sessions.migrating() as connection:
            connection.exec_driver_sql(f"UPDATE clock SET at = '{at}'")
        if files:
            for path in self.stores[0].paths.weights.rglob("*.safetensors*"):
                os.utime(path, (jumped.timestamp(), jumped.timestamp()))
