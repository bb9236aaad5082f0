"""The work that is killed: random or scripted operations on a store, each logged before and after.

An operation is one function in ``OPERATIONS``: it chooses what to do, says so in
``turn.pending(changes)``, and does it inside. To add one, write that function; a new kind of effect
on a document needs an entry in ``ledger.EFFECTS`` too. An operation without changes (rebuilding the
index, collecting garbage) may be killed anywhere and must change nothing that is found.

``work`` runs in a child process: see ``processes``.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapterdb.config import RetentionConfig
from adapterdb.errors import AdapterDBError
from adapterdb.store import Store
from adapterdb.store.upkeep import gc
from adapterdb.store.upkeep.forget import forget, resume
from benchmarks.reliability import ledger, plants
from benchmarks.reliability.contents import Content, new_documents
from benchmarks.reliability.ledger import Change, Key, Ledger

FAILED = 6  # exit status: an error of ours ended the work, as the command line would
CRASHED = 1  # any other error


@dataclass(frozen=True)
class Plan:
    """What a worker does.

    Args:
        home, log: of the store, and the tester's log, which is continued.
        seed: of everything random.
        worker: begins all its names; workers on one home don't touch each other's documents.
        script: operations in order; empty means random ones until killed.
        namespaces: chosen from at random.
        documents, passages, words: bounds, both included, of documents in a commit, passages in a
            document, words in a passage.
        applies: chance that the outbox is applied after an operation.
        die_at: step of the store and how often it must be passed, counted from when the worker is
            ready, before it kills itself.
        plant: name of a bug to plant, see ``plants``; empty for none.
        waits: for the file ``<log>.go``, ``before`` or ``after`` it opens the home.
    """

    home: Path
    log: Path
    seed: int
    worker: str = "a"
    script: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ("default",)
    documents: tuple[int, int] = (1, 3)
    passages: tuple[int, int] = (1, 3)
    words: tuple[int, int] = (3, 20)
    applies: float = 0.5
    die_at: tuple[str, int] | None = None
    plant: str = ""
    waits: Literal["", "before", "after"] = ""

    @property
    def ready(self) -> Path:
        """Made by the worker when the slow part is over."""
        return self.log.with_suffix(".ready")

    @property
    def go(self) -> Path:
        """Made by the harness when it may begin."""
        return self.log.with_suffix(".go")


class Turn:
    """What an operation works with.

    Attributes:
        plan: of the worker.
        store: open for writing.
        model: what is there, by the log.
        random: the source of every choice.
    """

    def __init__(self, plan: Plan, store: Store, log: Ledger) -> None:
        self.plan, self.store = plan, store
        self.random = random.Random(f"{plan.seed} {plan.worker} {log.begun}")
        self.model = ledger.read(plan.log).model
        self._log = log
        self._operation = ""

    def run(self, operation: str) -> None:
        """Do one operation; then, by chance, apply the outbox."""
        self._operation = operation
        OPERATIONS[operation](self)
        if self.random.random() < self.plan.applies:
            self.store.apply_outbox(timeout_s=1)

    @contextmanager
    def pending(self, changes: list[Change]) -> Iterator[None]:
        """Log ``changes`` as begun, and as acknowledged when the body ends without an error."""
        self._log.begin(self._operation, changes)
        if self.plan.plant == "acknowledged_too_early":
            self._log.done()
            yield
            self.model = self.model.after(changes)
            return
        yield
        self._log.done()
        self.model = self.model.after(changes)

    def between(self, bounds: tuple[int, int]) -> int:
        """A random number of these, both included."""
        return self.random.randint(*bounds)

    def content(self, key: Key | None = None) -> Content:
        """A fresh content, for the name ``key`` or a new one."""
        serial = f"{self.plan.worker}{self._log.begun}x{self.random.randrange(16**8):08x}"
        namespace, name = key or (self.random.choice(self.plan.namespaces), f"doc-{serial}")
        return Content(
            namespace, name, serial, self.between(self.plan.passages), self.between(self.plan.words)
        )

    def some(self, count: int, *, deleted: bool = False) -> list[Key]:
        """At most ``count`` random names that are active; with ``deleted``, of any that were."""
        of = self.model.names
        keys = sorted(
            key
            for key in of
            if of[key].active or (deleted and of[key].versions and not of[key].expired)
        )
        return self.random.sample(keys, min(count, len(keys)))

    def put(self, contents: list[Content]) -> None:
        """Commit contents, all at once."""
        with self.pending([ledger.put(content) for content in contents]):
            self.store.commit(new_documents(self.store, contents))


def ingest(turn: Turn) -> None:
    """Add new documents in one commit."""
    turn.put([turn.content() for _ in range(turn.between(turn.plan.documents))])


def replace(turn: Turn) -> None:
    """Give documents a new version, all in one commit."""
    keys = turn.some(turn.between(turn.plan.documents))
    turn.put([turn.content(key) for key in keys] or [turn.content()])


def delete(turn: Turn) -> None:
    """Delete documents of one namespace in one commit."""
    keys = turn.some(turn.between(turn.plan.documents))
    chosen = [key for key in keys if key[0] == keys[0][0]]
    if chosen:
        with turn.pending([ledger.delete(key) for key in chosen]):
            turn.store.delete(chosen[0][0], [name for _, name in chosen])


def rollback(turn: Turn) -> None:
    """Make an earlier version of a document the active one again, perhaps of a deleted one."""
    for key in turn.some(1, deleted=True):
        version = turn.between((1, len(turn.model.names[key].versions)))
        with turn.pending([ledger.revive(key, version)]):
            turn.store.rollback(*key, version)


def erase(turn: Turn) -> None:
    """Forget documents of one namespace, after what an earlier kill left half erased."""
    resume(turn.store)
    keys = turn.some(turn.between(turn.plan.documents), deleted=True)
    chosen = [key for key in keys if key[0] == keys[0][0]]
    if chosen:
        with turn.pending([ledger.forget(key) for key in chosen]):
            forget(turn.store, chosen[0][0], [name for _, name in chosen])


def collect(turn: Turn) -> None:
    """Collect what nothing names, without grace; nothing that can be asked for goes."""
    with turn.pending([]):
        gc.collect(turn.store, grace_h=0)


def purge(turn: Turn) -> None:
    """Delete a document and collect deleted ones too. Not for several writers on one home."""
    delete(turn)
    deleted = [key for key, history in turn.model.names.items() if not history.active]
    with turn.pending([ledger.expire(key) for key in deleted if turn.model.names[key].versions]):
        gc.collect(turn.store, RetentionConfig(deleted_days=0), grace_h=0)


def apply(turn: Turn) -> None:
    """Bring the index up to date."""
    with turn.pending([]):
        turn.store.apply_outbox(timeout_s=1)


def rebuild(turn: Turn) -> None:
    """Build the index of one namespace anew."""
    namespace = turn.random.choice(turn.plan.namespaces)
    with turn.pending([]):
        turn.store.applier.rebuild(namespace, 30)


OPERATIONS: dict[str, Callable[[Turn], None]] = {
    "ingest": ingest,
    "replace": replace,
    "delete": delete,
    "rollback": rollback,
    "erase": erase,
    "collect": collect,
    "purge": purge,
    "apply": apply,
    "rebuild": rebuild,
}
# how often each is chosen at random
CHANCES: dict[str, float] = {
    "ingest": 10,
    "replace": 6,
    "delete": 3,
    "rollback": 2,
    "erase": 1,
    "collect": 1,
}
CHANCES |= {"apply": 2, "rebuild": 0.2}


def work(plan: Plan) -> None:
    """In a child: open the home and carry out the plan. Ends the process.

    Exit status 0 when the script is done, 6 after an error of ours, 1 after any other; both are in
    the log.
    """
    logging.disable(logging.CRITICAL)  # a destroyed index is noisy
    log = Ledger(plan.log)
    try:
        plants.plant(plan.plant)
        _work(plan, log)
    except AdapterDBError as error:
        log.write({"event": "failed", **error.to_dict()})
        os._exit(FAILED)
    except BaseException:
        log.write({"event": "crashed", "traceback": traceback.format_exc()})
        os._exit(CRASHED)
    os._exit(0)


def _work(plan: Plan, log: Ledger) -> None:
    import lancedb  # noqa: F401 - a second that does not count, and no import during faults

    passed = dict.fromkeys([plan.die_at[0]], 0) if plan.die_at else {}

    def on_step(step: str) -> None:
        if plan.die_at and step in passed:
            passed[step] += 1
            if passed[step] == plan.die_at[1]:
                log.write({"event": "died", "step": step, "occurrence": passed[step]})
                os.kill(os.getpid(), signal.SIGKILL)

    if plan.waits == "before":
        _wait(plan)
    with Store.open(plan.home, on_step=on_step) as store:
        turn = Turn(plan, store, log)
        if plan.waits == "after":
            _wait(plan)
        plan.ready.touch()
        if plan.script:
            for operation in plan.script:
                turn.run(operation)
            return
        while True:
            turn.run(turn.random.choices(list(CHANCES), list(CHANCES.values()))[0])


def _wait(plan: Plan) -> None:
    plan.ready.touch()
    while not plan.go.exists():
        time.sleep(0.002)
