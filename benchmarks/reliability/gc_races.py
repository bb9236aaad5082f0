"""T8: garbage is collected without grace, again and again, beside writers of the same few texts.

Three processes ingest, delete and ingest again the same twenty texts, so that the same files are
written, needed, garbage and needed again all the time. A fourth collects with grace 0 and nothing
kept of the past. At the end no file that a delta names may be missing or altered. The only error
that a writer may meet is NotFound, for a name that another one deleted first.

    python benchmarks/reliability/gc_races.py [--operations 10000] [--seed S] [--postgres]

``--plant no_claims`` shows that files are lost where writers don't claim them.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from catalogs import Catalogs
from state_model import INFO, Draft, new_documents

from adapterdb.config import RetentionConfig
from adapterdb.errors import AdapterDBError, NotFound
from adapterdb.store import Store, check
from adapterdb.store.upkeep.gc import collect

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "safetensors.torch", "sqlalchemy.orm"])
WRITERS, TEXTS = 3, 20
LONGEST_S = 7200.0
NOTHING = RetentionConfig(versions=0, days=0, deleted_days=0)


def text(i: int) -> Draft:
    """The text number ``i``: the same bytes whoever ingests it, in a file of its own."""
    return Draft("default", f"d{i}", (f"text number {i}", f"more of {i}"), 2000, i)


def write(home: str, url: str | None, seed: int, operations: int, plant: str, report: Any) -> None:
    """In a child: ingest and delete; puts counts and unexpected errors into ``report``."""
    logging.disable(logging.CRITICAL)
    chance, counts, errors = random.Random(seed), Counter[str](), []
    with Store.open(Path(home), catalog_url=url) as store:
        if plant == "no_claims":
            store.claims.claim = lambda file: None  # type: ignore[method-assign]
        for _ in range(operations):
            some = chance.sample(range(TEXTS), chance.choice((1, 1, 1, 2, 3)))
            names = [f"d{i}" for i in some]
            operation = chance.choice(("ingest", "ingest", "delete", "roll back"))
            try:
                if operation == "ingest":
                    store.commit(new_documents(store, [text(i) for i in some]))
                elif operation == "delete":
                    store.delete("default", names)
                else:
                    store.rollback("default", names[0], store.document("default", names[0]).version)
            except NotFound:
                operation += ": not found"
            except AdapterDBError as error:
                errors.append(f"{operation}: {type(error).__name__} {error.code}: {error}")
            except Exception as error:
                errors.append(f"{operation}: {type(error).__name__}: {error}")
            counts[operation] += 1
    report.put((counts, errors))


def gather(home: str, url: str | None, stop: Event, report: Any) -> None:
    """In a child: collect until told to stop."""
    logging.disable(logging.CRITICAL)
    counts, errors = Counter[str](), []
    with Store.open(Path(home), catalog_url=url) as store:
        while not stop.is_set():
            try:
                collected = collect(store, NOTHING, grace_h=0)
            except Exception as error:
                errors.append(f"collect: {type(error).__name__}: {error}")
                break
            counts["collections"] += 1
            counts["versions_collected"] += collected.versions
            counts["files_collected"] += collected.files + collected.leftovers
    report.put((counts, errors))


def judge(store: Store) -> tuple[Counter[str], list[str]]:
    """What is lost or altered at the end, and counts of what is there."""
    wrong = []
    documents = store.documents(limit=1000)
    if len({d.name for d in documents}) != len(documents):
        wrong.append("a name is active twice")
    for document in documents:
        want = text(int(document.name[1:]))
        for passage, row in zip(store.passages(document.id), want.rows, strict=True):
            try:
                if not store.read_row(passage.row).equal(row):
                    wrong.append(f"{document.name} has other rows")
            except AdapterDBError as error:
                wrong.append(f"{document.name}: {error.code}: {error}")
    found = check(store, deep=True)
    wrong += [f"{f.code}: {f.what}" for f in found if f.severity == "error"]
    wrong += [f"left over: {f.what}" for f in found if f.code in ("orphan_file", "stale_staging")]
    return Counter(active=len(documents), weight_files=len(store.weights.names())), wrong


def run(
    home: Path, url: str | None, operations: int, seed: int, plant: str = ""
) -> tuple[Counter[str], list[str]]:
    """Race once on a new home; counts, and what went wrong."""
    Store.create(home, INFO, catalog_url=url).close()
    report, stop = FORKS.Queue(), FORKS.Event()
    each = -(-operations // WRITERS)
    writers = [
        FORKS.Process(
            target=write, args=(str(home), url, seed + i, each, plant, report), daemon=True
        )
        for i in range(WRITERS)
    ]
    collector = FORKS.Process(target=gather, args=(str(home), url, stop, report), daemon=True)
    for child in (collector, *writers):
        child.start()
    counts, wrong = Counter[str](), []
    for i in range(WRITERS + 1):
        if i == WRITERS:
            stop.set()
        found, errors = report.get(timeout=LONGEST_S)
        counts += found
        wrong += errors
    for child in (collector, *writers):
        child.join(60)
        if child.exitcode != 0:
            wrong.append(f"a process ended with {child.exitcode}")
    with Store.open(home, catalog_url=url) as store:
        before = set(store.weights.names())
        collect(store, NOTHING, grace_h=0)
        found, lost = judge(store)
        counts += found
        counts["files_before_last_collection"] = len(before)
    return counts, wrong + lost


def main() -> int:
    """Run the bar and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--postgres", action="store_true", help="needs PGHOST")
    parser.add_argument("--plant", choices=["", "no_claims"], default="", help="plant a bug first")
    options = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="gc-races-"))
    with Catalogs(postgres=options.postgres) as catalogs:
        counts, wrong = run(
            folder / "home", catalogs.new(), options.operations, options.seed, options.plant
        )
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    summary = {
        "program": "gc_races",
        **vars(options),
        "seconds": round(time.monotonic() - began, 1),
        **dict(sorted(counts.items())),
        "violations": len(wrong),
    }
    print(json.dumps(summary), flush=True)
    if wrong:
        print(f"kept for inspection: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
