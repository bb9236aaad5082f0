"""What every composition answers: the same questions with the same hits, k = 1, 3 and 8.

    python benchmarks/bench_compositions.py squad_dev.jsonl.gz --work FOLDER

Draws the questions (seed 0), makes a home with mini of all passages of their articles (one document
each), and asks blind with deltas alone (mode ``adapter``) by every composition. Controls: ``base``
(no delta), ``rag`` (the text of the hits instead), and ``shifted``, where a question of another
article lends its deltas and weights. SQuAD exact match and token F1, the best over accepted
answers, with bootstrap 95% intervals over questions; differences from ``cat`` are paired.

``gate`` needs a gate that is trained; ``--gate`` trains one on *other* questions about passages
that are asked about, none of them reported: passages with the most such questions, at most
``--gate-deltas``, up to four questions of each and one to choose the best step by. It has seen
questions on those passages, which no other composition has; hits without a trained gate go by
their prototypes, as ``arrow``'s do. A home that has a gate keeps it.

Finished cells are in FOLDER/cells.jsonl and are not asked again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from bootstrap import interval

from adapterdb import AdapterDB
from adapterdb.answers import COMPOSITIONS, Answer, Mixture
from adapterdb.evaluation.metrics import squad_em, squad_f1
from adapterdb.records import Document

ASKERS = 32  # threads
PER_PASSAGE = 4  # questions of a passage that a gate learns from; one more judges it
Record = dict[str, Any]


class Cell(NamedTuple):
    """A way of answering: ``base``, ``rag``, ``shifted`` or a composition, and k hits."""

    name: str
    k: int


def read(path: Path) -> list[Record]:
    """The answerable records of a JSON Lines file, plain or gzip-compressed."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [record for record in records if record["answers"] and record["passages"]]


def drawn(records: Sequence[Record], n: int) -> list[Record]:
    """``n`` records drawn with seed 0, in file order."""
    order = random.Random(0).sample(range(len(records)), min(n, len(records)))
    return [records[i] for i in sorted(order)]


def documents(records: Iterable[Record]) -> Iterator[Document]:
    """Every passage once."""
    passages = {p["id"]: p for record in records for p in record["passages"]}
    for name, passage in passages.items():
        yield Document(name, passage["text"], passage["title"])


class Sheet:
    """Asked cells, kept in a file of one line each.

    Args:
        path: of the file.
        key: of what the cells depend on besides their names; lines with another key are ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.cells: dict[Cell, Record] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                if entry["key"] == key:
                    self.cells[Cell(entry["name"], entry["k"])] = entry

    def add(self, cell: Cell, entry: Record) -> None:
        """Keep a finished cell."""
        self.cells[cell] = {"key": self.key, **cell._asdict(), **entry}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.cells[cell]) + "\n")


def asked(db: AdapterDB, records: Sequence[Record], cell: Cell, sheet: Sheet) -> list[Answer]:
    """The answers of one cell."""
    questions = [record["question"] for record in records]
    if cell.name in ("base", "rag"):
        return db.ask_many(questions, mode=cell.name, k=cell.k)  # type: ignore[arg-type]
    if cell.name == "shifted":
        lent = shifted(records, sheet.cells[Cell("cat", cell.k)]["mixtures"])

        def ask(question: str, mixture: Mixture) -> Answer:
            return db.ask(question, mode="adapter", mixture=mixture)

        with ThreadPoolExecutor(ASKERS) as askers:  # what they ask at once shares a batch
            return list(askers.map(ask, questions, lent))
    return db.ask_many(questions, mode="adapter", k=cell.k, compose=cell.name)  # type: ignore[arg-type]


def shifted(
    records: Sequence[Record], mixtures: Sequence[Sequence[tuple[str, float]]]
) -> list[Mixture]:
    """For each question the mixture of one half the list away, or the next of another article."""
    n, titles = len(records), [record["passages"][0]["title"] for record in records]
    found = []
    for i, title in enumerate(titles):
        away = ((i + n // 2 + step) % n for step in range(n))
        other = next((j for j in away if titles[j] != title), (i + n // 2) % n)
        found.append(Mixture(tuple((name, weight) for name, weight in mixtures[other])))
    return found


def scored(records: Sequence[Record], answers: Sequence[Answer], seconds: float) -> Record:
    """What is kept of a cell."""
    pairs = [(a.text, record["answers"]) for a, record in zip(answers, records, strict=True)]
    return {
        "f1": [100 * squad_f1(*pair) for pair in pairs],
        "em": [100 * squad_em(*pair) for pair in pairs],
        "found": [
            any(source.document in record["supporting"] for source in answer.sources)
            for answer, record in zip(answers, records, strict=True)
        ],
        "mixtures": [answer.mixture.parts for answer in answers],
        "answers": [answer.text for answer in answers],
        "notes": sum(bool(answer.note) for answer in answers),
        "seconds": seconds,
    }


def summary(cells: dict[Cell, Record]) -> list[Record]:
    """Figures of every cell: means with intervals, and the paired difference from ``cat``."""
    found = []
    for cell, entry in cells.items():
        figures: Record = {**cell._asdict(), "seconds": entry["seconds"], "notes": entry["notes"]}
        figures["found"] = 100 * statistics.mean(entry["found"])
        figures["f1"], figures["em"] = interval(entry["f1"]), interval(entry["em"])
        cat = cells.get(Cell("cat", cell.k))
        if cat is not None and cell.name != "cat":
            apart = [a - b for a, b in zip(entry["f1"], cat["f1"], strict=True)]
            figures["f1 less cat's"] = interval(apart)
        found.append(figures)
    return found


def table(found: Sequence[Record], ks: Sequence[int]) -> str:
    """Compositions by k as Markdown: F1 [interval] / EM, and the difference from ``cat``."""
    lines = [
        "| | " + " | ".join(f"k = {k}: F1 / EM | F1 less cat's" for k in ks) + " |",
        "|---|" + "---|---|" * len(ks),
    ]
    figures = {Cell(entry["name"], entry["k"]): entry for entry in found}
    for name in dict.fromkeys(cell.name for cell in figures):
        row = [name]
        for k in ks:
            entry = figures.get(Cell(name, k))
            if entry is None:
                row += ["", ""]
                continue
            mean, low, high = entry["f1"]
            row.append(f"{mean:.1f} [{low:.1f}, {high:.1f}] / {entry['em'][0]:.1f}")
            apart = entry.get("f1 less cat's")
            row.append("" if apart is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*apart))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def train_gate(
    db: AdapterDB, around: Sequence[Record], reported: Sequence[Record], options: argparse.Namespace
) -> None:
    """Train a gate over passages of the reported questions on other questions about them."""
    held = {record["id"] for record in reported}
    wanted = {record["supporting"][0] for record in reported}
    others: dict[str, list[Record]] = defaultdict(list)
    for record in around:
        name = record["supporting"][0]
        if name in wanted and record["id"] not in held:
            others[name].append({**record, "task": name})
    # a gate sends tokens to one delta of a task, and it needs one question to be judged by
    most_asked = sorted(others, key=lambda name: (-len(others[name]), name))
    enough = (name for name in most_asked if len(others[name]) > 1)
    single = (name for name in enough if db.get(name).passages == 1)
    chosen = list(islice(single, options.gate_deltas))
    parts = {
        "learned": [record for name in chosen for record in others[name][1 : 1 + PER_PASSAGE]],
        "held-out": [others[name][0] for name in chosen],
    }
    for part, records in parts.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (options.work / f"gate-{part}.jsonl").write_text(lines, encoding="utf-8")
    print(f"a gate of {len(chosen)} deltas, {len(parts['learned'])} questions", flush=True)
    made = db.trainer.gate(
        options.work / "gate-learned.jsonl",
        held_out=options.work / "gate-held-out.jsonl",
        checkpoint=options.work / "gate.checkpoint",
        minutes=options.gate_minutes,
    )
    print(f"gate {made.name} trained", flush=True)


def prepared(work: Path, records: Sequence[Record]) -> AdapterDB:
    """The home with mini; what it does not hold yet is ingested."""
    home = work / "home"
    db = AdapterDB.open(home) if home.exists() else AdapterDB.create(home)
    report = db.ingest(list(documents(records)))
    print(f"{report.added} documents ingested, {report.skipped} were there", flush=True)
    return db


def cells(names: Sequence[str], ks: Sequence[int], *, gate: bool) -> list[Cell]:
    """All cells, controls first and ``shifted`` after the ``cat`` it borrows from."""
    chosen = [name for name in names if gate or name != "gate"]
    wanted = [Cell("base", 1)]
    for k in ks:
        wanted += [Cell("rag", k), Cell("cat", k), Cell("shifted", k)]
        wanted += [Cell(name, k) for name in chosen if name != "cat"]
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path, help="JSON Lines with passages, also .gz")
    parser.add_argument("--work", type=Path, required=True, help="folder of the home and the cells")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("-k", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--compositions", nargs="+", choices=COMPOSITIONS, default=COMPOSITIONS)
    parser.add_argument("--gate", action="store_true", help="train a gate, and ask with it")
    parser.add_argument("--gate-deltas", type=int, default=256)
    parser.add_argument("--gate-minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    every = read(options.questions)
    records = drawn(every, options.n)
    titles = {record["passages"][0]["title"] for record in records}
    around = [record for record in every if record["passages"][0]["title"] in titles]
    with prepared(options.work, around) as db:
        key = {"fingerprints": db.fingerprints, "questions": [record["id"] for record in records]}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        sheet = Sheet(options.work / "cells.jsonl", digest)
        if options.gate and not any(part.kind == "gate" for part in db.trainer.parts()):
            train_gate(db, around, records, options)
        for cell in cells(options.compositions, options.k, gate=options.gate):
            if cell in sheet.cells:
                continue
            began = time.perf_counter()
            answers = asked(db, records, cell, sheet)
            sheet.add(cell, scored(records, answers, time.perf_counter() - began))
            f1 = statistics.mean(sheet.cells[cell]["f1"])
            print(f"{cell.name}, k = {cell.k}: F1 {f1:.1f}", flush=True)
        found = summary(sheet.cells)
        print(table(found, options.k))
        set_up = {"n": len(records), "articles": len(titles), "key": digest}
        print(json.dumps({"set_up": {**set_up, **db.fingerprints}, "cells": found}))


if __name__ == "__main__":
    main()
