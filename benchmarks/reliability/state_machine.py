"""T10: random histories of one home, held against plain dicts after every step.

Hypothesis chooses what happens next, shrinks a history that goes wrong, and prints it with a blob
that replays it. ``tests/store/test_store_states.py`` runs the same machine for seconds.

    python benchmarks/reliability/state_machine.py [--examples 200] [--steps 50] [--seed S]
        [--postgres] [--no-shrink]

``--postgres`` keeps the catalogs on the server that PGHOST names (run inside ``pg_virtualenv``).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time

os.environ.setdefault("LANCE_LOG", "error")

import numpy as np
from catalogs import Catalogs
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from state_home import EVERYTHING, SPACES
from state_misfortunes import (
    FORKS,
    QUICK,
    SLOW,
    WORDS,
    Misfortunes,
    drafts,
    handles,
    names,
    now,
    numbers,
    retentions,
    spaces,
    years,
)
from state_model import INFO, Draft, check_nearest, check_words, new_documents, refused, vector

from adapterdb.config import RetentionConfig
from adapterdb.errors import InvalidInput, NotFound, StorageFailed
from adapterdb.store import Store, check
from adapterdb.store.upkeep.backup import backup
from adapterdb.store.upkeep.forget import forget
from adapterdb.store.upkeep.gc import collect
from adapterdb.store.upkeep.optimize import optimize
from adapterdb.store.upkeep.stats import measure


class StoreStates(Misfortunes):
    """What may happen to a home; two rules for one thing make it happen twice as often."""

    # documents

    @rule(handle=handles, new=st.lists(drafts, min_size=1, max_size=3))
    def put(self, handle: int, new: list[Draft]) -> None:
        """New documents, new versions, or both, in one commit."""
        self.count("put")
        store = self.store(handle)
        stored = store.commit(new_documents(store, new))
        for draft in new:
            self.model.put(draft, self.at())
        assert [(d.name, d.seq) for d in stored] == [
            (draft.name, self.model.seq - len(new) + 1 + i) for i, draft in enumerate(new)
        ]

    @initialize(new=st.lists(drafts, min_size=2, max_size=6))
    def begin(self, new: list[Draft]) -> None:
        """The home is not empty when things begin to happen."""
        self.put(0, new)

    @rule(handle=handles, new=st.lists(drafts, min_size=1, max_size=3))
    def put_more(self, handle: int, new: list[Draft]) -> None:
        """The same as ``put``, so that it is chosen twice as often as others."""
        self.put(handle, new)

    @precondition(lambda self: self.model.versions)
    @rule(handle=handles, choice=numbers)
    def put_again(self, handle: int, choice: int) -> None:
        """What was stored before, byte for byte; it is known if it is what is active now."""
        self.count("put again")
        stored = list(self.model.stored())
        draft = stored[choice % len(stored)].draft
        store, active = self.store(handle), self.model.active(draft.key)
        same = active is not None and active.draft == draft
        assert store.is_current(*draft.key, draft.ingest_key) == same
        store.commit(new_documents(store, [draft]))
        self.model.put(draft, self.at())

    @rule(handle=handles, draft=drafts)
    def write_ahead(self, handle: int, draft: Draft) -> None:
        """Rows are written; their document will be committed later, or never."""
        self.count("write ahead")
        own = Draft(draft.namespace, draft.name, draft.texts, draft.year, 100 + self.steps)
        store = self.store(handle)
        self.ahead.append((store, own, new_documents(store, [own])[0]))

    @precondition(lambda self: self.ahead)
    @rule(choice=numbers)
    def commit_ahead(self, choice: int) -> None:
        """A file written before is still there, whatever was collected meanwhile."""
        self.count("commit ahead")
        store, draft, document = self.ahead.pop(choice % len(self.ahead))
        store.commit([document])
        self.model.put(draft, self.at())

    @rule(handle=handles, space=spaces, chosen=st.sets(names, min_size=1, max_size=2))
    def delete(self, handle: int, space: str, chosen: set[str]) -> None:
        """Documents are deleted by name, all or, if one is not there, none."""
        self.count("delete")
        store, wanted = self.store(handle), sorted(chosen)
        if not chosen <= set(self.model.names(space)):
            with refused(NotFound):
                store.delete(space, wanted)
            return
        assert store.delete(space, wanted) == len(wanted)
        self.model.delete([(space, name) for name in wanted], self.at())

    @rule(handle=handles, space=spaces, year=years)
    def delete_where(self, handle: int, space: str, year: int) -> None:
        """Documents are deleted by a condition."""
        self.count("delete where")
        store, wanted = self.store(handle), self.model.names(space, since=year)
        assert store.delete(space, where=f"year >= {year}", dry_run=True) == len(wanted)
        assert store.delete(space, where=f"year >= {year}") == len(wanted)
        order = sorted(wanted, key=lambda name: store.history(space, name)[0].seq)
        self.model.delete([(space, name) for name in order], self.at())

    @rule(handle=handles, space=spaces, name=names, version=st.integers(1, 4))
    def rollback(self, handle: int, space: str, name: str, version: int) -> None:
        """A stored version comes back, of a deleted name too; another one is not found."""
        self.count("rollback")
        store, key = self.store(handle), (space, name)
        if version not in [v.number for v in self.model.versions.get(key, [])]:
            with refused(NotFound):
                store.rollback(space, name, version)
            return
        store.rollback(space, name, version)
        self.model.rollback(key, version, self.at())

    @rule(handle=handles, space=spaces, chosen=st.sets(names, min_size=1, max_size=2))
    def forget(self, handle: int, space: str, chosen: set[str]) -> None:
        """Documents are erased, deleted ones too."""
        self.count("forget")
        keys = [(space, name) for name in sorted(chosen)]
        try:
            receipt = forget(self.store(handle), space, sorted(chosen))
        except NotFound:
            assert any(key not in self.model.versions for key in keys)
            return
        assert receipt.documents == len(keys)
        # of a name that was collected, the log of changes is all that can be forgotten
        assert receipt.versions == sum(len(self.model.versions.get(key, [])) for key in keys)
        assert receipt.residue == (), receipt
        self.model.forget(keys)

    # searches beyond those after every step

    @rule(
        handle=handles,
        space=spaces,
        back=st.integers(0, 12),
        n=st.integers(1, 12),
        year=st.none() | years,
        choice=numbers,
    )
    def ask_the_past(
        self, handle: int, space: str, back: int, n: int, year: int | None, choice: int
    ) -> None:
        """As of an earlier change what was there then is found, or nothing if it was collected."""
        self.count("search as of")
        store, seq = self.store(handle), max(0, self.model.seq - back)
        if seq < self.model.horizon:
            with refused(InvalidInput, "too_old"):
                store.moment(seq)
            return
        seq, where = store.moment(seq), None if year is None else f"year >= {year}"
        places = self.model.places(self.model.found(space, seq, year))
        query = np.random.default_rng(choice).standard_normal(INFO.dimension).astype(np.float32)
        query /= np.linalg.norm(query)
        hits = store.search_vectors(space, query, n, where=where, as_of=seq)
        check_nearest(hits, places, query, n)
        word = WORDS[choice % len(WORDS)]
        hits = store.search_text(space, word, EVERYTHING, where=where, as_of=seq)
        check_words(hits, places, word)

    @rule(handle=handles, space=spaces, n=st.integers(1, 5), year=years, choice=numbers)
    def ask_where(self, handle: int, space: str, n: int, year: int, choice: int) -> None:
        """A condition holds for both kinds of search."""
        self.count("search where")
        store, where = self.store(handle), f"year >= {year}"
        places = self.model.places(self.model.found(space, since=year))
        word = WORDS[choice % len(WORDS)]
        hits = store.search_vectors(space, vector(word), n, where=where)
        check_nearest(hits, places, vector(word), n)
        check_words(store.search_text(space, word, EVERYTHING, where=where), places, word)

    # housekeeping

    @rule(handle=handles, space=spaces, work=st.sampled_from(("apply", "rebuild", "optimize")))
    def tend_index(self, handle: int, space: str, work: str) -> None:
        """The index catches up, is built anew, or is tidied."""
        self.count(work)
        store = self.store(handle)
        if work == "rebuild":
            store.applier.rebuild(space, 10)
            self.damaged.discard(space)
        elif work == "optimize":
            optimize(store)
        else:
            store.apply_outbox()
            assert self.damaged or measure(store).pending == 0

    @rule(handle=handles, keep=retentions)
    def gc(self, handle: int, keep: RetentionConfig) -> None:
        """Versions that retention does not keep go, and files that nothing needs; no others."""
        self.count("gc")
        moment = now()
        collected = collect(self.store(handle), keep, grace_h=0)
        assert collected.versions == self.model.collect(keep, moment)

    @rule(handle=handles, how=st.sampled_from(("backup", "check", "read only")))
    def look(self, handle: int, how: str) -> None:
        """A copy, a check and a handle for reading agree."""
        self.count(how)
        store = self.store(handle)
        {"backup": self.back_up, "check": self.check, "read only": self.read_only}[how](store)

    def back_up(self, store: Store) -> None:
        """A copy holds what the home holds, also of the past."""
        folder = self.folder / "copy"
        report = backup(store, folder)
        assert (report.seq, report.problems) == (self.model.seq, ())
        with Store.open(folder) as copy:
            self.check_documents(copy)
            self.check_searches(copy)
            past = max(self.model.horizon, self.model.seq - 3)
            for space in SPACES:
                hits = copy.search_vectors(space, vector("alpha"), EVERYTHING, as_of=past)
                places = self.model.places(self.model.found(space, past))
                check_nearest(hits, places, vector("alpha"), EVERYTHING)
        shutil.rmtree(folder)

    def check(self, store: Store) -> None:
        """Nothing is wrong but what is pending, or was damaged by us."""
        for finding in check(store, deep=True):
            mended = finding.code.startswith("index_") and self.damaged
            fine = finding.severity == "note" or finding.code == "outbox_pending" or mended
            assert fine, finding

    def read_only(self, _: Store) -> None:
        """A handle for reading finds the same and changes nothing."""
        with Store.open(self.home, read_only=True, catalog_url=self.url) as store:
            self.check_documents(store)
            self.check_searches(store)
            with refused(StorageFailed, "read_only"):
                store.delete("default", where="year > 0")

    # handles

    @rule(handle=handles, how=st.sampled_from(("reopen", "open another", "hang")))
    def change_handles(self, handle: int, how: str) -> None:
        """A handle is closed, or never used any more, and another opened; or one more is opened.

        What a closed or hanging handle wrote ahead will never be committed.
        """
        self.count(how)
        if how == "open another" and len(self.stores) < 3:
            self.stores.append(Store.open(self.home, catalog_url=self.url))
            return
        store = self.store(handle)
        self.ahead = [entry for entry in self.ahead if entry[0] is not store]
        if how == "hang" and len(self.hung) < 3:
            self.hung.append(store)
        else:
            store.close()
        self.stores[self.stores.index(store)] = Store.open(self.home, catalog_url=self.url)


def run(examples: int, steps: int, *, shrink: bool = True, derandomize: bool = False) -> None:
    """Run the machine; an AssertionError with the history that leads to it if it goes wrong."""
    FORKS.set_forkserver_preload(["torch", "safetensors.torch", "sqlalchemy.orm"])
    phases = (Phase.explicit, Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        StoreStates,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            print_blob=True,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def main() -> int:
    """Run the bar and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--postgres", action="store_true", help="needs PGHOST")
    parser.add_argument("--no-shrink", action="store_true", help="stop at the first history")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a damaged index is noisy
    began = time.monotonic()
    print(f"seed {options.seed}", file=sys.stderr)
    seed(options.seed)(StoreStates)
    StoreStates.killable = QUICK + SLOW
    failed = ""
    with Catalogs(postgres=options.postgres) as catalogs:
        StoreStates.new_catalog = staticmethod(catalogs.new)  # type: ignore[assignment]
        try:
            run(options.examples, options.steps, shrink=not options.no_shrink)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"[:500]
            raise
        finally:
            summary = {
                "program": "state_machine",
                **vars(options),
                "seconds": round(time.monotonic() - began, 1),
                **dict(sorted(StoreStates.done.items())),
                "failed": failed,
            }
            print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
