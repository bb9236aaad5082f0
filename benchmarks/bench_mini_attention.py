"""The attention of mini's recipe against torch's: alone, and within a whole layer of mini.

Forward and backward in bfloat16, both interleaved in one run, medians. Needs a CPU with AMX tiles
and a C compiler; run it on a machine that does nothing else.

    python benchmarks/bench_mini_attention.py [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.mini.attention import causal_attention, kernel
from recipes.mini.network import layer_states
from recipes.mini.start import skeleton

SHAPES = ((16, 144), (32, 144), (8, 288))  # sequences, tokens
HEADS, UNITS = 12, 384


def medians(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, taken in turns after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if kernel() is None:
        raise SystemExit("this CPU has no AMX tiles, or there is no C compiler")
    layer = skeleton().bert.encoder.layer[0].bfloat16()
    for shape in SHAPES:
        q, k, v = (torch.randn(*shape, UNITS).bfloat16().requires_grad_() for _ in range(3))
        outer = torch.randn(*shape, UNITS).bfloat16()

        def attend(torchs: bool, q=q, k=k, v=v, outer=outer) -> None:
            causal_attention(q, k, v, HEADS, twice=torchs).backward(outer)

        def whole(torchs: bool, x=q, outer=outer) -> None:
            layer_states(layer, x, twice=torchs).backward(outer)

        found = medians(
            {
                f"{name}, {by}": lambda work=work, by=by: work(by == "torch")
                for name, work in (("attention", attend), ("layer", whole))
                for by in ("kernel", "torch")
            },
            options.rounds,
        )
        for name in ("attention", "layer"):
            ours, torchs = found[f"{name}, kernel"], found[f"{name}, torch"]
            print(
                f"{shape[0]} x {shape[1]} tokens, {name}: {ours:.1f} ms, torch {torchs:.1f} ms,"
                f" {torchs / ours:.2f} times"
            )


if __name__ == "__main__":
    main()
