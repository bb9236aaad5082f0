"""T9: on one home four processes ingest, two read, one tidies the index, one deletes, one forgets.

Each writer puts in fifty documents in commits of one to three, whose rows share a file. Ten names
are the same for all writers. What a text says tells which bits its delta row must have, so that a
reader can judge every hit by itself.

Afterwards every acknowledged version is there once, under the number that was acknowledged; a
shared name has its last version; what was deleted or forgotten is not found. No reader has met an
error, nobody a locked database.

    python benchmarks/reliability/processes.py [--runs 5] [--seed S] [--postgres] [--no-forget]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")

from catalogs import Catalogs
from state_model import INFO, Draft, new_documents, vector

from adapterdb.errors import Corrupt
from adapterdb.store import Scored, Store, check
from adapterdb.store.upkeep.forget import forget
from adapterdb.store.upkeep.optimize import optimize

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "safetensors.torch", "sqlalchemy.orm"])
WRITERS, READERS, PASSAGES = 4, 2, 2
KINDS = {"shared": 10, "own": 30, "gone": 5, "forgotten": 5}  # documents of each writer
SEED = re.compile(r"seed (\d+) part (\d+)")
LONGEST_S = 1800.0
ALL = 10_000


@dataclass
class Told:
    """What a process says at its end.

    Args:
        stored: name, version and seed of every acknowledged version.
        removed: names of which the deletion was acknowledged.
        errors: what it should not have met.
    """

    role: str
    counts: Counter[str] = field(default_factory=Counter)
    stored: list[tuple[str, int, int]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def draft(name: str, seed: int) -> Draft:
    """A document whose texts tell which rows it has."""
    texts = tuple(f"seed {seed} part {i} of {name}" for i in range(PASSAGES))
    return Draft("default", name, texts, 2000 + seed % 7, seed)


def wrong(store: Store, hit: Scored) -> str:
    """What is wrong with a hit; empty if it has the row that its text tells."""
    match = SEED.match(hit.passage.text)
    if match is None:
        return f"a text that nobody wrote: {hit.passage.text!r}"
    seed, part = map(int, match.groups())
    try:
        row = store.read_row(hit.passage.row)
    except Corrupt as error:
        # between the search and now it may have been erased
        if error.code == "lost_file" and hit.passage.document.startswith("forgotten"):
            return ""
        raise
    same = row.equal(draft(hit.passage.document, seed).rows[part])
    return "" if same else f"{hit.passage.document} has a wrong row"


def ingest(store: Store, number: int, chance: random.Random, stop: Event, told: Told) -> None:
    """Put in this writer's documents, in random order."""
    names = [
        f"{kind}{i}" if kind == "shared" else f"{kind}{number}-{i}"
        for kind, count in KINDS.items()
        for i in range(count)
    ]
    chance.shuffle(names)
    while names:
        some = [names.pop() for _ in range(min(len(names), chance.randint(1, 3)))]
        seeds = [chance.randrange(2**31) for _ in some]
        made = new_documents(store, [draft(*pair) for pair in zip(some, seeds, strict=True)])
        for document, seed in zip(store.commit(made), seeds, strict=True):
            told.stored.append((document.name, document.version, seed))
        if chance.random() < 0.5:
            store.apply_outbox()


def read(store: Store, number: int, chance: random.Random, stop: Event, told: Told) -> None:
    """Search in all ways, and look at every hit."""
    while not stop.is_set():
        as_of = chance.choice((None, None, chance.randint(0, store.changes.now().seq)))
        query, n = vector(str(chance.random())), chance.choice((3, 20))
        where = chance.choice((None, "year >= 2003"))
        word = f"own0-{chance.randrange(9)}"
        for hits in (
            store.search_vectors("default", query, n, where=where, as_of=as_of),
            store.search_text("default", word, n, where=where, as_of=as_of),
        ):
            told.errors += filter(None, (wrong(store, hit) for hit in hits))
            if len({hit.passage.passage_id for hit in hits}) < len(hits):
                told.errors.append("a passage was found twice")
            told.counts["searches"] += 1
            told.counts["hits"] += len(hits)
        names = [document.name for document in store.documents(limit=ALL, as_of=as_of)]
        if len(names) != len(set(names)):
            told.errors.append(f"a name was listed twice as of {as_of}")


def tidy(store: Store, number: int, chance: random.Random, stop: Event, told: Told) -> None:
    """Tidy the index and build it anew."""
    while not stop.is_set():
        if chance.random() < 0.3:
            store.applier.rebuild("default", 120)
            told.counts["rebuilds"] += 1
        else:
            optimize(store)
            told.counts["optimizations"] += 1


def _remove(
    store: Store, kind: str, act: Callable[[list[str]], Any], stop: Event, told: Told
) -> None:
    while not stop.is_set():
        names = [
            d.name for d in store.documents("default", limit=ALL, where=f"name LIKE '{kind}%'")
        ]
        if names:
            act(names[:3])
            told.removed += names[:3]
            told.counts[kind] += len(names[:3])
        else:
            time.sleep(0.01)


def delete(store: Store, number: int, chance: random.Random, stop: Event, told: Told) -> None:
    """Delete what is to be deleted, as soon as it is there."""
    _remove(store, "gone", lambda names: store.delete("default", names), stop, told)


def erase(store: Store, number: int, chance: random.Random, stop: Event, told: Told) -> None:
    """Forget what is to be forgotten, as soon as it is there."""

    def act(names: list[str]) -> None:
        receipt = forget(store, "default", names)
        told.counts["receipts"] += 1
        told.counts["residue_while_others_work"] += len(receipt.residue)

    _remove(store, "forgotten", act, stop, told)


ROLES = {role.__name__: role for role in (ingest, read, tidy, delete, erase)}


def work(
    home: str, url: str | None, role: str, number: int, seed: int, stop: Event, reports: Any
) -> None:
    """In a child: play a role to its end; an error ends it and is told."""
    logging.disable(logging.CRITICAL)
    told = Told(role)
    try:
        with Store.open(Path(home), catalog_url=url) as store:
            ROLES[role](store, number, random.Random(f"{seed} {role} {number}"), stop, told)
    except Exception as error:
        told.errors.append(f"{role}: {type(error).__name__}: {error}")
    reports.put(told)


def judge(store: Store, tales: list[Told], *, erased: bool) -> list[str]:
    """Where the home is not what its processes were told."""
    stored = [entry for told in tales for entry in told.stored]
    removed = {name for told in tales for name in told.removed}
    lines = []
    if len({entry[:2] for entry in stored}) != len(stored):
        lines.append("a version was acknowledged twice")
    last: dict[str, tuple[int, int]] = {}
    for name, version, seed in stored:
        last[name] = max(last.get(name, (0, 0)), (version, seed))
    active = {d.name: d for d in store.documents(limit=ALL)}
    for name in sorted(last.keys() | active.keys()):
        if name in removed or name not in last:
            if name in active:
                lines.append(f"{name} should not be found")
            continue
        version, seed = last[name]
        document = active.get(name)
        if document is None or document.version != version:
            lines.append(f"{name} is {document and document.version}, not {version}")
            continue
        want = draft(name, seed)
        rows = [store.read_row(passage.row) for passage in store.passages(document.id)]
        same = [row.equal(want.rows[i]) for i, row in enumerate(rows)]
        if store.text(document.id) != want.text or same != [True] * PASSAGES:
            lines.append(f"{name}@{version} is not as it was stored")
        numbers = sorted(c.version for c in store.history("default", name) if c.op == "put")
        if numbers != sorted(v for n, v, _ in stored if n == name):
            lines.append(f"{name} has versions {numbers}")
    store.apply_outbox()
    hits = store.search_vectors("default", vector("all"), ALL)
    found = Counter((hit.passage.document, hit.passage.ordinal) for hit in hits)
    want_found = {(name, i) for name in active for i in range(PASSAGES)}
    if set(found) != want_found or any(count > 1 for count in found.values()):
        lines.append(f"{len(hits)} hits for {len(want_found)} passages")
    lines += [f"{f.code}: {f.what}" for f in check(store, deep=True) if f.severity != "note"]
    if erased and (left := [n for n in removed if n.startswith("forgotten") and n in active]):
        lines.append(f"forgotten and found: {left}")
    return lines


def run(home: Path, url: str | None, seed: int, *, erased: bool) -> tuple[Counter[str], list[str]]:
    """Let all processes work on a new home; counts, and what went wrong."""
    Store.create(home, INFO, catalog_url=url).close()
    reports, stop = FORKS.Queue(), FORKS.Event()
    roles = [("read", i) for i in range(READERS)] + [("tidy", 0), ("delete", 0)]
    roles += [("erase", 0)] if erased else []

    def start(role: str, number: int) -> Any:
        arguments = (str(home), url, role, number, seed, stop, reports)
        child = FORKS.Process(target=work, args=arguments, daemon=True)
        child.start()
        return child

    children = [start(*role) for role in roles]
    children += [start("ingest", i) for i in range(WRITERS)]
    tales: list[Told] = []
    while len(tales) < len(children):
        tales.append(reports.get(timeout=LONGEST_S))
        if sum(told.role == "ingest" for told in tales) == WRITERS:
            stop.set()
    for child in children:
        child.join(60)
    counts = sum((told.counts for told in tales), Counter[str]())
    counts["acknowledged"] = sum(len(told.stored) for told in tales)
    lines = [line for told in tales for line in told.errors]
    counts["reader_errors"] = sum(len(told.errors) for told in tales if told.role == "read")
    counts["locked"] = sum("locked" in line.lower() for line in lines)
    with Store.open(home, catalog_url=url) as store:
        return counts, lines + judge(store, tales, erased=erased)


def main() -> int:
    """Run the bar and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--postgres", action="store_true", help="needs PGHOST")
    parser.add_argument("--no-forget", action="store_true")
    options = parser.parse_args()
    began, counts, lines = time.monotonic(), Counter[str](), []
    folder = Path(tempfile.mkdtemp(prefix="processes-"))
    with Catalogs(postgres=options.postgres) as catalogs:
        for i in range(options.runs):
            found, wrong_here = run(
                folder / f"home{i}",
                catalogs.new(),
                options.seed + i,
                erased=not options.no_forget,
            )
            counts.update(found)
            lines += [f"run {i}: {line}" for line in wrong_here]
    for line in lines[:20]:
        print(line, file=sys.stderr)
    summary = {
        "program": "processes",
        **vars(options),
        "seconds": round(time.monotonic() - began, 1),
        **dict(sorted(counts.items())),
        "violations": len(lines),
    }
    print(json.dumps(summary), flush=True)
    if lines:
        print(f"kept for inspection: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
