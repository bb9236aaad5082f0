"""What storing deltas with fewer bits does to them: logits, and answers.

Deltas of the example corpus are made once, as float32. For each way of storing them:

    logits    |logits stored - logits exact| / |logits exact - logits base|, over all tokens of
              each passage and of one question for each passage, float32, one delta at a time
    answers   of all example questions in modes adapter and hybrid, greedy, that differ from the
              answers of the float32 home

"N bits, blocks of M" is the scheme of ``store.encoding`` with other numbers: signed N-bit numbers
with one bfloat16 scale for each M.

    python benchmarks/bench_quantized.py [--every 1] [--recipe gradient|rg] [--answers]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from torch import Tensor

from adapterdb import AdapterDB, Config
from adapterdb.adapted_model import AdaptedModel
from adapterdb.home import LoadOptions
from adapterdb.store.encoding import dequantize, quantize, stored_bytes
from adapterdb.store.rows import PassageRow

EXAMPLES = Path(__file__).parents[1] / "examples"
MODES = ("adapter", "hybrid")
Answers = dict[str, list[str]]


def questions() -> list[str]:
    """The example questions."""
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def as_int8(rows: Tensor) -> Tensor:
    """Rows ``(n, P)`` as they come back from a store of int8."""
    back = torch.empty_like(rows)
    for stored, row in zip(quantize(rows), back, strict=True):
        dequantize(stored, row)
    return back


def with_bits(bits: int, block: int) -> Callable[[Tensor], Tensor]:
    """The same with other numbers of bits and other blocks."""

    def through(rows: Tensor) -> Tensor:
        largest = 2 ** (bits - 1) - 1
        blocks = rows.reshape(len(rows), -1, block)
        scale = (blocks.abs().amax(-1, keepdim=True) / largest * (1 + 2**-8)).bfloat16().float()
        return ((blocks / scale).nan_to_num(0.0).round() * scale).reshape(rows.shape)

    return through


WAYS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {  # bits of a number, what it does
    "bfloat16": (16, lambda rows: rows.bfloat16().float()),
    "int8": (8 * stored_bytes("int8", 2**20) / 2**20, as_int8),
    "int8, read as bfloat16": (11, lambda rows: as_int8(rows).bfloat16().float()),
    **{
        f"{bits} bits, blocks of {block}": (bits + 16 / block, with_bits(bits, block))
        for bits in (8, 9, 10, 12)
        for block in (16, 32, 64)
    },
}


def stored_rows(db: AdapterDB) -> tuple[list[PassageRow], Tensor]:
    """All passages of a home, and their rows ``(n, P)`` float32."""
    store = db._home.store
    passages = [p for d in store.documents(limit=1000) for p in store.passages(d.id)]
    return passages, torch.stack([store.read_row(p.row).float() for p in passages])


@torch.no_grad()
def effects(db: AdapterDB, every: int) -> dict[str, dict[str, float]]:
    """Relative change of the logits by way of storing: mean and worst."""
    passages, rows = stored_rows(db)
    base, start, asked = db._home.base, db._home.start, questions()
    model = AdaptedModel(base.model, db._home.layout)

    def logits(ids: list[int], passage: PassageRow, row: Tensor | None) -> Tensor:
        factors = row
        if row is not None:
            factors = (start.step(row) if passage.kind == "gradient" else row)[None]
        with model.using_rows(factors) as acting:
            return acting(torch.tensor([ids])).logits[0]

    ways = {name: through(rows) for name, (_, through) in WAYS.items()}
    moved: dict[str, list[float]] = {name: [] for name in WAYS}
    for i in range(0, len(passages), every):
        passage = passages[i]
        prompts = [
            base.encoder.plain(passage.title, passage.text),
            base.encoder.blind(asked[2 * i % len(asked)]),
        ]
        for ids in prompts:
            exact = logits(ids, passage, rows[i])
            effect = (exact - logits(ids, passage, None)).norm()
            for name, stored in ways.items():
                moved[name].append(float((logits(ids, passage, stored[i]) - exact).norm() / effect))
    model.remove()
    return {
        name: {
            "of_bfloat16": WAYS[name][0] / 16,
            "mean": statistics.mean(found),
            "max": max(found),
        }
        for name, found in moved.items()
    }


def made(folder: Path, dtype: str, recipe: str) -> AdapterDB:
    """A home of the example corpus."""
    config = Config(delta_dtype=dtype, recipe=recipe)  # type: ignore[arg-type]
    db = AdapterDB.create(folder, config, options=LoadOptions(device="cpu", dtype="float32"))
    db.ingest(EXAMPLES / "corpus")
    return db


def differing(exact: Answers, other: Answers) -> dict[str, int]:
    """How many answers of each mode differ."""
    return {
        mode: sum(a != b for a, b in zip(exact[mode], other[mode], strict=True)) for mode in MODES
    }


def answers(db: AdapterDB) -> Answers:
    """Greedy answers of all example questions."""
    asked = questions()
    return {mode: [a.text for a in db.ask_many(asked, mode=mode)] for mode in MODES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each Nth passage")
    parser.add_argument("--recipe", default="gradient", choices=("gradient", "rg"))
    parser.add_argument("--answers", action="store_true", help="compare answers, too")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    result: dict[str, object] = {"set_up": {**vars(options), "torch": torch.__version__}}
    with (
        tempfile.TemporaryDirectory() as name,
        made(Path(name) / "float32", "float32", options.recipe) as exact,
    ):
        result["logits"] = found = effects(exact, options.every)
        print(f"{'stored as':26} {'of bf16':>8} {'mean':>9} {'max':>9}")
        for way, r in found.items():
            print(f"{way:26} {r['of_bfloat16']:8.3f} {r['mean']:9.2e} {r['max']:9.2e}", flush=True)
        if options.answers:
            said, counts = answers(exact), {}
            for dtype in ("bfloat16", "int8"):
                with made(Path(name) / dtype, dtype, options.recipe) as other:
                    counts[dtype] = differing(said, answers(other))
                print(f"answers of {dtype} that differ, of {len(said['hybrid'])}: {counts[dtype]}")
            result["answers_differ"] = counts
    print(json.dumps(result))


if __name__ == "__main__":
    main()
