"""T20: a delta made huge can't take over a mixture, and honest answers don't suffer from the cap.

    adb init home && adb ingest examples/corpus --database home
    python benchmarks/reliability/poison.py home --questions examples/questions.jsonl

Five deltas are merged with equal weights, one of them scaled by 1, 10, 100 and 1000. Its share is
the cosine of the merged weight change with its own. ``independent`` deltas share no direction: an
honest one has a share of 0.45, and with the default cap none may have more than 0.60. The deltas
of a home have directions in common, so that each has a larger share to begin with. Then the tune
questions are answered with and without the cap. Nothing in the home is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor

from adapterdb import AdapterDB
from adapterdb.answers import Mixture
from adapterdb.config import SearchConfig
from adapterdb.engine.compose import capped
from adapterdb.evaluation.metrics import squad_f1
from adapterdb.store import Store

SCALES = (1, 10, 100, 1000)
CAPS = (0.0, 3.0, 1.5, SearchConfig.norm_cap, 1.0)
ALLOWED = 0.60
NAMES = "abcde"


def products(store: Store, kind: str) -> Tensor:
    """Inner products ``(n, n)`` of the weight changes of all deltas of a home."""
    layout = store.info.layout
    refs = [ref for _, ref in store.catalog.all_row_refs()]
    rows = torch.stack([store.read_row(ref).double() for ref in refs])
    if kind == "gradient":
        return rows @ rows.T
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for a, b in layout.views(rows):
        found += torch.einsum("nri,mqi,nro,mqo->nm", a, a, b, b)
    return layout.scale**2 * found


def shares(
    inner: Tensor, typical: float, cap: float, scale: float, rounds: int, seed: int
) -> list[float]:
    """The share of the scaled delta in each of ``rounds`` merges of five."""
    chance, found = random.Random(seed), []
    for _ in range(rounds):
        ids = chance.sample(range(len(inner)), len(NAMES))
        part = inner[ids][:, ids].clone()
        part[0] *= scale
        part[:, 0] *= scale
        norms = part.diagonal().sqrt()
        strengths = dict(zip(NAMES, (norms / typical).tolist(), strict=True))
        held, _ = capped(Mixture(tuple((name, 0.2) for name in NAMES)), strengths, cap)
        weights = torch.tensor([weight for _, weight in held.parts], dtype=torch.float64)
        merged = (weights @ part @ weights).sqrt()
        found.append(float(part[0] @ weights / (merged * norms[0])))
    return found


def independent(norms: Tensor) -> Tensor:
    """Inner products of deltas of these norms that share no direction."""
    return torch.diag(norms.square())


def table(
    name: str, inner: Tensor, typical: float, rounds: int, seed: int
) -> dict[str, dict[str, float]]:
    """Print and return the mean and largest share for each cap and scale."""
    found: dict[str, dict[str, float]] = {}
    for cap in CAPS:
        row = {}
        for scale in SCALES:
            values = shares(inner, typical, cap, scale, rounds, seed)
            row[f"x{scale} mean"] = round(statistics.mean(values), 3)
            row[f"x{scale} max"] = round(max(values), 3)
        found[f"cap {cap:g}"] = row
        cells = "  ".join(f"{row[f'x{s} mean']:.3f}/{row[f'x{s} max']:.3f}" for s in SCALES)
        print(f"{name:12} cap {cap:4g}  {cells}", flush=True)
    return found


def honest(db: AdapterDB, questions: Path, ks: Sequence[int]) -> list[dict[str, object]]:
    """F1 of the tune questions with and without the cap, and how many answers differ."""
    records = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    records = [r for r in records if r["split"] == "tune" and r["answers"]]
    config, rows = db.config, []
    for mode in ("adapter", "hybrid"):
        for k in ks:
            texts = []
            for cap in (0.0, SearchConfig.norm_cap):
                db._home.config = replace(config, search=replace(config.search, norm_cap=cap))
                asked = [r["question"] for r in records]
                texts.append([a.text for a in db.ask_many(asked, mode=mode, k=k)])  # type: ignore[arg-type]
            f1 = [
                100
                * statistics.mean(
                    squad_f1(t, r["answers"]) for t, r in zip(said, records, strict=True)
                )
                for said in texts
            ]
            changed = sum(a != b for a, b in zip(*texts, strict=True))
            print(f"{mode:8} k {k}  F1 {f1[0]:5.1f} -> {f1[1]:5.1f}  {changed} answers differ")
            rows.append({"mode": mode, "k": k, "f1": f1, "changed": changed, "n": len(records)})
    db._home.config = config
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with AdapterDB.open(options.home, read_only=True) as db:
        store = db._home.store
        kind = db.deltas(db.list()[0].name)[0].kind
        inner = products(store, kind)
        norms, typical = inner.diagonal().sqrt(), store.norms.typical("default", kind)
        assert typical is not None, "the home holds too few deltas"
        spread = (norms / norms.median()).quantile(
            torch.tensor([0, 0.05, 0.5, 0.95, 0.99, 1], dtype=torch.float64)
        )
        print(f"{len(norms)} {kind} deltas, norm / median: " + " ".join(f"{x:.3f}" for x in spread))
        print("share of the scaled delta, mean/max, at x1, x10, x100, x1000")
        size = (typical, options.rounds, options.seed)
        result = {
            "independent": table("independent", independent(norms), *size),
            "home": table("home", inner, *size),
        }
        answers = honest(db, options.questions, (1, 3, 5)) if options.questions else []
    worst = max(
        value
        for name, value in result["independent"][f"cap {SearchConfig.norm_cap:g}"].items()
        if name.endswith("max")
    )
    print(f"largest share of an independent delta: {worst:.3f}, allowed {ALLOWED}")
    set_up = {"test": "T20", "seed": options.seed, "rounds": options.rounds, "kind": kind}
    figures = {"spread": spread.tolist(), "shares": result, "answers": answers}
    print(json.dumps({**set_up, **figures, "passed": worst <= ALLOWED}))
    raise SystemExit(worst > ALLOWED)


if __name__ == "__main__":
    main()
