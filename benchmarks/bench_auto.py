"""Mode ``auto`` against the fixed modes on questions about articles it was not calibrated on.

    python benchmarks/bench_auto.py squad_dev.jsonl.gz --home HOME --questions 300

DATA is JSON Lines, plain or .gz, with question, answers and passages (id, title, text). Every
distinct passage is stored; a home that is there already is used as it is. Articles (by title) are
dealt into two halves; so many questions of each are drawn. The home is calibrated on the one half
and asked the other in every mode, modes taking turns by 50 questions. F1 with a 95 % interval of
2,000 bootstrap samples of the questions; the last column is auto minus that mode, paired.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from bootstrap import interval

from adapterdb import AdapterDB, Document
from adapterdb.answers import ASK_MODES, Answer
from adapterdb.evaluation.metrics import squad_f1

TURN = 50


def read(path: Path) -> list[dict[str, Any]]:
    """The answerable records of a file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [r for r in map(json.loads, lines) if r.get("answers") and r.get("passages")]


def halves(records: Sequence[dict[str, Any]], n: int, seed: int) -> list[list[dict[str, Any]]]:
    """Two lists of at most ``n`` questions that share no article."""
    chance = random.Random(seed)
    titles = sorted({r["passages"][0]["title"] for r in records})
    chance.shuffle(titles)
    side = {title: i % 2 for i, title in enumerate(titles)}
    parts = [[r for r in records if side[r["passages"][0]["title"]] == i] for i in (0, 1)]
    return [chance.sample(part, min(n, len(part))) for part in parts]


def opened(path: Path, records: Sequence[dict[str, Any]]) -> AdapterDB:
    """The home at ``path``, or a new one of every passage."""
    if path.exists():
        return AdapterDB.open(path)
    db = AdapterDB.create(path)
    passages = {p["id"]: p for r in records for p in r["passages"]}
    db.ingest([Document(p["id"], p["text"], p["title"]) for p in passages.values()])
    return db


def asked(
    db: AdapterDB, questions: Sequence[str], k: int | None
) -> tuple[dict[str, list[Answer]], dict[str, float]]:
    """Answers and wall milliseconds a question, by mode."""
    answers: dict[str, list[Answer]] = {mode: [] for mode in ASK_MODES}
    seconds: Counter[str] = Counter()
    for first in range(0, len(questions), TURN):
        for mode in ASK_MODES:
            began = time.perf_counter()
            answers[mode] += db.ask_many(questions[first : first + TURN], mode=mode, k=k)
            seconds[mode] += time.perf_counter() - began
    return answers, {mode: 1e3 * s / len(questions) for mode, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("-k", type=int)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = read(options.data)
    learned, held_out = halves(records, options.questions, options.seed)
    with opened(options.home, records) as db, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        file.write_text("".join(json.dumps(r) + "\n" for r in learned), encoding="utf-8")
        part = db.trainer.calibration(
            file, k=options.k, tolerance=options.tolerance, seed=options.seed
        )
        answers, ms = asked(db, [r["question"] for r in held_out], options.k)
    f1 = {
        mode: np.array([
            100 * squad_f1(a.text, r["answers"]) for a, r in zip(row, held_out, strict=True)
        ])
        for mode, row in answers.items()
    }  # fmt: skip
    print(f"{'mode':8} {'F1':>5} {'95 %':>14} {'tokens':>7} {'ms':>6}  auto minus it")
    results = {}
    for mode, scores in f1.items():
        gain = f1["auto"] - scores
        r = results[mode] = {
            "f1": round(float(scores.mean()), 2),
            "interval": [round(end, 2) for end in interval(scores)[1:]],
            "prompt_tokens": statistics.mean(a.tokens_in for a in answers[mode]),
            "ms": round(ms[mode], 1),
            "auto_gain": round(float(gain.mean()), 2),
            "auto_gain_interval": [round(end, 2) for end in interval(gain)[1:]],
        }
        print(
            f"{mode:8} {r['f1']:5.1f} {r['interval']!s:>14} {r['prompt_tokens']:7.0f}"
            f" {r['ms']:6.0f}  {r['auto_gain']:+.2f} {r['auto_gain_interval']}"
        )
    shares = Counter(a.mode for a in answers["auto"])
    twice = sum(", then " in a.note for a in answers["auto"]) / len(held_out)
    chosen = {mode: round(n / len(held_out), 3) for mode, n in shares.most_common()}
    oracle = float(np.stack([f1[m] for m in ASK_MODES if m != "auto"]).max(0).mean())
    print(f"auto gave answers of {chosen}, asked twice {twice:.1%}; the best of all: {oracle:.1f}")
    set_up = {"calibrated_on": len(learned), "held_out": len(held_out), "seed": options.seed}
    print(
        json.dumps({
            **set_up, "data": options.data.name, "results": results, "chosen": chosen,
            "asked_twice": twice, "oracle_f1": oracle, "calibration": part.facts,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
