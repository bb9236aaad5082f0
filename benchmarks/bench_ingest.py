"""Fitting one delta a passage against serial loops with the same objective, in one run.

    ours            adapterdb.training.bank, float32 and bfloat16 autocast
    serial          one passage after the other: peft, torch.optim.AdamW, the same steps in the
                    same order, float32 and bfloat16 autocast
    trainer         transformers.Trainer, one per passage, float32

On mini and on a random Llama (hidden 384, 8 layers, 6 / 2 heads, intermediate 1024, 8,192 words),
by the recipe prag-fast (PRAG's five sequences, loss on answers, two full-batch steps), deltas in
all layers and in the upper half, and by prag (one sequence a step, loss on all tokens). Ours also
with what ingest measures besides: the losses before and after. Variants take turns; figures are
medians of process CPU seconds and of wall seconds over the rounds, ratios have their range. The
error is of the products B A, relative to serial float32: the median over documents and the largest.
AdamW turns a gradient near zero into a whole step, so that rounding alone moves a few numbers: what
serial float32 differs by from itself with 13 more columns of padding is printed beside it.

    python benchmarks/bench_ingest.py [--threads 1] [--rounds 5] [--passages 16] [--quick]
    python benchmarks/bench_ingest.py --only gradient --threads 2
    python benchmarks/bench_ingest.py --only memory
    python benchmarks/bench_ingest.py --quality questions.jsonl --n 500
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import peft
import torch
import transformers
from ingest_case import WORDS, Case, autocast, passages, small_llama
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import load_base_model
from adapterdb.layout import DeltaLayout
from adapterdb.prompts import DEFAULT, PromptEncoder
from adapterdb.training import bank
from adapterdb.training.recipes import get_recipe
from adapterdb.training.start import load_meta_init


def ba_errors(layout: DeltaLayout, rows: Tensor, judge: Tensor) -> list[float]:
    """Median and largest of the documents' errors."""
    each = [
        ba_error(layout, mine[None], right[None]) for mine, right in zip(rows, judge, strict=True)
    ]
    return [statistics.median(each), max(each)]


def ba_error(layout: DeltaLayout, rows: Tensor, judge: Tensor) -> float:
    """Norm of the difference of all products B A, relative to the judge's."""
    off, total = 0.0, 0.0
    for (a, b), (c, d) in zip(layout.views(rows.cpu()), layout.views(judge.cpu()), strict=True):
        want = d.mT @ c
        off += float((b.mT @ a - want).square().sum())
        total += float(want.square().sum())
    return (off / total) ** 0.5


def compare(case: Case, rounds: int, *, with_trainer: bool = True) -> dict[str, Any]:
    """Every variant of a case in turn, ``rounds`` times after one that is not counted."""
    variants: dict[str, Callable[[], None]] = {
        "serial float32": lambda: case.serial("float32"),
        "serial bfloat16": lambda: case.serial("bfloat16"),
        "ours float32": lambda: case.ours("float32"),
        "ours bfloat16": lambda: case.ours("bfloat16"),
        "ours float32 with losses": lambda: case.ours("float32", losses=True),
        "ours bfloat16 with losses": lambda: case.ours("bfloat16", losses=True),
    }
    if with_trainer:
        variants["trainer"] = case.trainer
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    wall: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            began = time.process_time(), time.perf_counter()
            run()
            if turn:
                cpu[name].append(time.process_time() - began[0])
                wall[name].append(time.perf_counter() - began[1])
    judge = case.rows["serial float32"]
    case.serial("float32", wider=13)
    found: dict[str, Any] = {
        "passages": len(case.data),
        "tokens": sum(len(s.ids) for sequences in case.data for s in sequences),
        "noise": ba_errors(case.layout, case.rows["serial float32, padded"], judge),
        "variants": {},
    }
    for name in variants:
        entry: dict[str, Any] = {
            "documents_per_s": len(case.data) / statistics.median(wall[name]),
            "cpu_ms_per_document": 1e3 * statistics.median(cpu[name]) / len(case.data),
        }
        if name in case.rows:
            entry["ba_error"] = ba_errors(case.layout, case.rows[name], judge)
        for peer in ("serial float32", "serial bfloat16", "trainer"):
            if name.startswith("ours") and peer in variants:
                for clock, seconds in (("cpu", cpu), ("wall", wall)):
                    ratios = [p / o for p, o in zip(seconds[peer], seconds[name], strict=True)]
                    entry[f"{clock} ratio to {peer}"] = [
                        statistics.median(ratios), min(ratios), max(ratios),
                    ]  # fmt: skip
        found["variants"][name] = entry
    return found


def show(name: str, found: dict[str, Any]) -> None:
    """A case as a table."""
    noise = "{:.1e}, {:.1e}".format(*found["noise"])
    print(f"\n{name}: {found['passages']} passages, {found['tokens']} tokens")
    print(f"BA error of serial float32 against itself, padded: {noise}")
    print(f"{'':28}{'doc/s':>8}{'CPU ms':>8}{'BA error':>18}   CPU time of peer / ours [range]")
    for variant, entry in found["variants"].items():
        error = "{:.1e}, {:.1e}".format(*entry["ba_error"]) if "ba_error" in entry else ""
        ratios = "  ".join(
            f"{key.removeprefix('cpu ratio to ')} {v[0]:.2f} [{v[1]:.2f}, {v[2]:.2f}]"
            for key, v in entry.items()
            if key.startswith("cpu ratio")
        )
        print(
            f"{variant:28}{entry['documents_per_s']:8.2f}"
            f"{entry['cpu_ms_per_document']:8.0f}{error:>18}   {ratios}",
            flush=True,
        )


def cases(count: int, only: str, *, quick: bool) -> Iterator[Case]:
    """Every configuration, or those whose name contains ``only``."""
    mini = load_base_model("mini", dtype="float32")
    wordy = PromptEncoder(DEFAULT, mini.tokenizer, 512)  # passage first
    fast, prag = (get_recipe(name, has_meta_init=False) for name in ("prag-fast", "prag"))
    for model_name in ("llama", "mini"):
        for recipe, layers in ((fast, "all"), (fast, "upper-half"), (prag, "all")):
            name = f"{model_name}, {recipe.name}, {layers} layers"
            if only not in name:
                continue
            if model_name == "mini":
                yield Case.make(name, mini.model, mini.encoder, recipe, layers, count)
            else:
                model = small_llama(tiny=quick)
                yield Case.make(name, model, wordy, recipe, layers, count, fold=8192)


def gradient_deltas(count: int, rounds: int) -> dict[str, Any]:
    """Passages a second of ``bank.fit`` alone by the recipe gradient on mini, with both losses."""
    base = load_base_model("mini")
    path = base.meta_init_path
    assert path is not None
    layout, start = load_meta_init(path)
    recipe, adapted = get_recipe("gradient", has_meta_init=True), AdaptedModel(base.model, layout)
    texts = passages(count)
    found = {}
    for dtype in ("float32", "bfloat16"):
        seconds = []
        for turn in range(rounds + 1):
            began = time.perf_counter()
            with autocast(dtype, base.model):
                for first in range(0, count, 12):
                    bank.fit(adapted, base.encoder, texts[first : first + 12], recipe, start)
            if turn:
                seconds.append(count / (time.perf_counter() - began))
        found[dtype] = [statistics.median(seconds), min(seconds), max(seconds)]
        print(
            f"gradient deltas on mini, {WORDS} words, {dtype}: {found[dtype][0]:.1f} passages/s"
            f" [{found[dtype][1]:.1f}, {found[dtype][2]:.1f}]",
            flush=True,
        )
    return found


def peak_memory(count: int) -> float:
    """MB by which fitting ``count`` passages at once raises this process's peak."""
    case = next(cases(count, "mini, prag-fast, all", quick=False))
    case.data, every = case.data[:1], case.data
    case.ours("bfloat16", losses=True)
    case.data = every
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    case.ours("bfloat16", losses=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peaks() -> dict[int, float]:
    """``peak_memory`` of N passages, each in a process of its own."""
    found = {}
    for count in (8, 32, 128):
        command = [sys.executable, __file__, "--peak-of", str(count)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[count] = float(said.split()[-1])
        print(f"N = {count:3}: peak {found[count]:.0f} MB above one passage's (mini, prag-fast)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=16)
    parser.add_argument("--only", default="", help="part of a name, 'gradient' or 'memory'")
    parser.add_argument("--quick", action="store_true", help="two passages, a tiny Llama")
    parser.add_argument("--quality", type=Path, help="tasks as JSON Lines, with gold passages")
    parser.add_argument("--n", type=int, default=500, help="questions of --quality")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # peft and transformers warn about each other
    transformers.utils.logging.disable_progress_bar()
    if options.peak_of:
        print(peak_memory(options.peak_of))
        return
    results: dict[str, Any] = {}
    if options.quality is not None:
        from ingest_quality import quality

        results["quality"] = quality(options.quality, options.n)
    elif options.only == "memory":
        results["peak MB"] = peaks()
    else:
        count, rounds = (2, 1) if options.quick else (options.passages, options.rounds)
        if options.only != "gradient":
            for case in cases(count, options.only or ("llama" if options.quick else ""),
                              quick=options.quick):  # fmt: skip
                results[case.name] = compare(case, rounds)
                show(case.name, results[case.name])
                case.adapted.remove()
        if options.only in ("", "gradient"):
            results["gradient"] = gradient_deltas(12 if options.quick else 48, rounds)
        if not options.only and not options.quick:
            results["peak MB"] = peaks()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    set_up = {"threads": options.threads, "cpus": os.cpu_count(), **versions}
    print(json.dumps({"set_up": set_up, **results}))


if __name__ == "__main__":
    main()
