"""T11: one bit flipped in a home is found or harmless; nothing flipped is ever used.

    weights   every flip is found by ``check(deep=True)``, and no row is read otherwise than written
    index     answers stay those of the intact home, of its catalog alone, or of a new index
    catalog   no text or vector comes out altered; errors, and documents passed over, may come
    wal       the same, with the last commits still in SQLite's log

Each flip is made in a copy of a small home and looked at by a child process.

    python benchmarks/reliability/bit_flips.py [--flips 250] [--seed 0] [--only weights]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")

import small_store
from case_runner import CaseRunner

from adapterdb.errors import AdapterDBError
from adapterdb.store import Store
from adapterdb.store.upkeep.check import check

COUNT, HITS, SECONDS = 40, 3, 30.0
WORDS = (
    "the",
    "weir",
    "was",
    "built",
    "by",
    "monks",
    "who",
    "kept",
    "bees",
    "and",
    "honey",
    "town",
)
QUESTIONS = ("weir monks", "honey town", "who kept bees", "number 7")
PLACES = {"weights": "weights", "index": "lance", "catalog": "meta.db", "wal": "meta.db-wal"}


def texts(start: int, count: int) -> dict[str, str]:
    """Documents of a few words each."""
    found = {}
    for i in range(start, start + count):
        words = random.Random(i).choices(WORDS, k=30)
        found[f"d{i}.md"] = f"number {i} {' '.join(words)}"
    return found


def make_homes(base: Path) -> None:
    """``base/home``, with everything settled, and ``base/live``, its log not yet written back."""
    home = base / "home"
    with small_store.create(home) as store:
        for start in range(0, COUNT, 10):
            small_store.add(store, texts(start, 10), metadata={"d3.md": {"year": 2021}})
    with Store.open(home) as store:
        small_store.add(store, texts(COUNT, 5))
        shutil.copytree(home, base / "live", ignore=shutil.ignore_patterns("*-shm"))


def answers(store: Store) -> dict[str, Any]:
    """All that the store says, with everything that could be wrong in it."""
    said: dict[str, Any] = {"hits": []}
    documents = store.documents("default", limit=1000)
    said["fields"] = {d.name: [d.title, d.version, dict(d.metadata)] for d in documents}
    said["texts"] = {d.name: store.text(d.id) for d in documents}
    said["passages"] = {d.name: [p.text for p in store.passages(d.id)] for d in documents}
    for question in QUESTIONS:
        vector = small_store.vector(question)
        hits = store.search_vectors("default", vector, HITS)
        said["hits"].append([[h.passage.document, h.passage.text, round(h.score, 4)] for h in hits])
        hits = store.search_text("default", question, HITS)
        said["hits"].append([[h.passage.document, h.passage.text, 0] for h in hits])
    return said


def cosines() -> dict[tuple[int, str], float]:
    """What each vector question must score with each text."""
    every = texts(0, COUNT + 5).values()
    return {
        (i, text): float(small_store.vector(question) @ small_store.vector(text))
        for i, question in enumerate(QUESTIONS)
        for text in every
    }


def look(case: tuple[str, str]) -> tuple[str, str]:
    """What became of a flip, and what is wrong with it."""
    home, kind = Path(case[0]), case[1]
    clean = json.loads((home.parent / f"{kind}.json").read_text())
    try:
        with Store.open(home) as store:
            if kind == "weights":
                return _look_at_rows(store, clean)
            said = answers(store)
    except AdapterDBError as error:
        return "error", "" if kind != "index" else f"{type(error).__name__}: {error}"
    if kind == "index":
        good = [clean["hits"], *clean["otherwise"]]
        if all(hits in known for hits, *known in zip(said["hits"], *good, strict=True)):
            return "same" if said["hits"] == clean["hits"] else "same as without it", ""
        pairs = enumerate(zip(said["hits"], clean["hits"], strict=True))
        where = [
            f"{'text' if i % 2 else 'vector'} question {i // 2}" for i, (a, b) in pairs if a != b
        ]
        return "different", f"answers differ, silently: {', '.join(where)}"
    return compared(said, clean)


def _look_at_rows(store: Store, clean: dict[str, Any]) -> tuple[str, str]:
    refused = 0
    for delta_id, ref in store.catalog.all_row_refs():
        try:
            if store.read_row(ref).float().tolist() != clean[delta_id]:
                return "used", f"the row of {delta_id} is used though it differs"
        except AdapterDBError:
            refused += 1
    if not any(finding.severity == "error" for finding in check(store, deep=True)):
        return "missed", "check finds nothing"
    return ("row refused" if refused else "outside the rows"), ""


def compared(said: dict[str, Any], clean: dict[str, Any]) -> tuple[str, str]:
    """Whether what a damaged catalog says is true as far as it goes."""
    known = {text for passages in clean["passages"].values() for text in passages}
    for name, text in said["texts"].items():
        if text != clean["texts"].get(name, text) or text not in known:
            return "wrong text", f"the text of {name!r} is altered"
    for passages in said["passages"].values():
        if not set(passages) <= known:
            return "wrong text", "the text of a passage is altered"
    scores = cosines()
    for i, hits in enumerate(said["hits"]):
        for _, text, score in hits:
            if text not in known:
                return "wrong text", "the text of a hit is altered"
            if i % 2 == 0 and abs(scores[i // 2, text] - score) > 1e-3:
                return "wrong vector", f"a hit scores {score} instead of {scores[i // 2, text]:.4f}"
    if said == clean:
        return "same", ""
    if any(fields != clean["fields"].get(name) for name, fields in said["fields"].items()):
        return "field altered", ""
    return "passed over", ""


def flip(home: Path, kind: str, source: random.Random) -> None:
    """Flip one bit in a file of ``kind``: each byte as likely as any other, in the index each file.

    Most bytes of a small index are of its log, which nobody reads.
    """
    place = home / PLACES[kind]
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    sizes = [file.stat().st_size for file in files]
    file = source.choices(files, None if kind == "index" else sizes)[0]
    data = bytearray(file.read_bytes())
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    file.write_bytes(data)


def keep_clean(base: Path) -> None:
    """What the intact homes say, beside them."""
    for kind in PLACES:
        with Store.open(copied(base, kind)) as store:
            rows = {
                d: store.read_row(ref).float().tolist() for d, ref in store.catalog.all_row_refs()
            }
            said = rows if kind == "weights" else answers(store)
        if kind == "index":  # ranks by words depend a little on how the index has grown
            home = copied(base, kind)
            shutil.rmtree(home / "lance")
            with Store.open(home, read_only=True) as store:
                exact = answers(store)["hits"]
            with Store.open(home) as store:
                answers(store)
                said["otherwise"] = [exact, answers(store)["hits"]]
        (base / f"{kind}.json").write_text(json.dumps(said))


def copied(base: Path, kind: str) -> Path:
    home = base / "flipped"
    shutil.rmtree(home, ignore_errors=True)
    return Path(shutil.copytree(base / ("live" if kind == "wal" else "home"), home))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--flips", type=int, default=250, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PLACES)
    options = parser.parse_args(argv)
    source, failures = random.Random(options.seed), list[str]()
    became: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder, CaseRunner(look, SECONDS) as runner:
        base = Path(folder)
        make_homes(base)
        keep_clean(base)
        for kind in PLACES if options.only is None else [options.only]:
            became[kind] = Counter()
            for i in range(options.flips):
                home = copied(base, kind)
                flip(home, kind, source)
                outcome = runner.run((str(home), kind))
                word, wrong = outcome.value or (outcome.failed.split(":")[0], outcome.failed)
                became[kind][word] += 1
                if wrong:
                    failures.append(f"{kind} flip {i}: {wrong}")
                    print("WRONG", failures[-1], flush=True)
    result = {
        "test": "T11",
        "seed": options.seed,
        "flips": options.flips,
        "became": {kind: dict(counts.most_common()) for kind, counts in became.items()},
        "failures": failures,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["failures"] else 0)
