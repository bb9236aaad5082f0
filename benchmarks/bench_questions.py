"""Answers the questions of a JSON Lines file in several modes and scores them.

    adb init home && adb ingest passages.jsonl --database home
    python benchmarks/bench_questions.py home questions.jsonl --limit 300 -k 3

Retrieval is over the whole home. SQuAD exact match and token F1, the best over accepted answers;
``found`` is the share of questions whose supporting passage is among the hits (by document name).
Questions without accepted answers are left out. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from adapterdb import AdapterDB
from adapterdb.evaluation.metrics import squad_em, squad_f1


def read(path: Path, limit: int) -> list[dict[str, Any]]:
    """The first answerable records of a file, plain or gzip-compressed."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        records = (json.loads(line) for line in lines)
        found = [r for r in records if r.get("answers")]
    return found[:limit]


def score(db: AdapterDB, records: list[dict[str, Any]], mode: str, k: int) -> dict[str, float]:
    """Figures of one mode over all records."""
    answers = db.ask_many([r["question"] for r in records], mode=mode, k=k)  # type: ignore[arg-type]
    pairs = [(a.text, r["answers"]) for a, r in zip(answers, records, strict=True)]
    hits = [
        bool(set(r.get("supporting", [])) & {s.document.removesuffix(".md") for s in a.sources})
        for a, r in zip(answers, records, strict=True)
    ]
    return {
        "f1": 100 * statistics.mean(squad_f1(*pair) for pair in pairs),
        "em": 100 * statistics.mean(squad_em(*pair) for pair in pairs),
        "found": 100 * statistics.mean(hits),
        "tokens_in": statistics.mean(a.tokens_in for a in answers),
        "ms": statistics.mean(a.timings_ms["search"] for a in answers)
        + sum({a.timings_ms["generate"] for a in answers}) / len(answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--modes", default="base,rag,adapter,hybrid")
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = read(options.questions, options.limit)
    with AdapterDB.open(options.home, read_only=True) as db:
        print(f"{'mode':8} {'F1':>6} {'EM':>6} {'found':>6} {'tokens':>7} {'ms':>7}")
        results = {}
        for mode in options.modes.split(","):
            r = results[mode] = score(db, records, mode, options.k)
            print(
                f"{mode:8} {r['f1']:6.1f} {r['em']:6.1f} {r['found']:6.1f}"
                f" {r['tokens_in']:7.0f} {r['ms']:7.0f}",
                flush=True,
            )
        set_up = {"n": len(records), "k": options.k, "questions": options.questions.name}
        print(json.dumps({**set_up, "fingerprints": db.fingerprints, "results": results}))


if __name__ == "__main__":
    main()
