"""The Triton kernels on a GPU: right against float64, then fast against what memory allows.

    checks     every kernel and gradient at a grid of shapes, as good as plain torch in that dtype
    ceiling    bandwidth of a copy, and what a launch costs with and without a CUDA graph
    tiles      candidates at the sites of Llama-3.2-1B and 3.1-8B; the best ones as a table
    sites      64 questions with their own top 3: bytes of the deltas over time, beside torch's
               gather + bmm, and shrink and expand as two kernels of dots on 16-token tiles
    gate       2 of 28 deltas chosen for each token, beside MeteoRA's loop and gathered bmm
    prefill    64 prompts of 128 tokens: time over the base linear's

Every call within a measurement reads other deltas than the last, more than the cache holds; calls
are in one CUDA graph, so launches of Python don't count. Prints a line for each result, the table
of tiles (paste it into a file, ``tiles.read`` it, or put it into ``tiles.TABLE``), and last one
JSON line of everything, which it also writes to kernels.json in --out or $OUT.

    python gpu/kernels.py
    python gpu/kernels.py --smoke     tiny shapes, on a CPU in Triton's interpreter; no figures
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SMOKE = "--smoke" in sys.argv
if SMOKE:  # Triton reads it when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
import triton  # noqa: E402
from torch import Tensor  # noqa: E402

from adapterdb.kernels import add_lora, fused, launches, reference, strategies, tiles  # noqa: E402
from adapterdb.kernels.products import Products  # noqa: E402
from adapterdb.kernels.tiles import Tile  # noqa: E402

DEVICE = "cpu" if SMOKE else "cuda"
QUESTIONS, TOP = (2, 3) if SMOKE else (64, 3)
RANKS = (2,) if SMOKE else (2, 8)
ROTATED_BYTES = 2**10 if SMOKE else 2**28  # several times an H200's cache of 60 MB
SITES: dict[str, dict[str, tuple[int, int]]] = {
    "Llama-3.2-1B": {
        "q, o": (2048, 2048), "k, v": (2048, 512), "gate, up": (2048, 8192), "down": (8192, 2048)
    },
    "Llama-3.1-8B": {
        "q, o": (4096, 4096), "k, v": (4096, 1024), "gate, up": (4096, 14336),
        "down": (14336, 4096),
    },
}  # fmt: skip
if SMOKE:
    SITES = {"tiny": {"up": (40, 64), "down": (64, 40)}}
Call = Callable[[], Any]


class Site(NamedTuple):
    """Decoding at one linear: ``calls`` problems whose deltas are all different."""

    problems: list[Products]
    bytes: int  # of the deltas one call meets


def site(h1: int, h2: int, rank: int, kind: str, tokens: int = 1) -> Site:
    """QUESTIONS rows with their own TOP deltas of a bank in bf16 or int8; x in bf16."""
    size = 1 if kind == "int8" else 2
    met = QUESTIONS * TOP
    calls = max(2, -(-ROTATED_BYTES // (met * rank * (h1 + h2) * size)))
    draw = torch.Generator(DEVICE).manual_seed(0)
    banks, scales = [], []
    for width in (h1, h2):
        if kind == "int8":
            shape = (calls * met, rank, width)
            banks.append(
                torch.randint(-127, 128, shape, generator=draw, device=DEVICE, dtype=torch.int8)
            )
            scales.append(torch.rand(shape[:2], generator=draw, device=DEVICE) / 100)
        else:
            banks.append(_some(draw, calls * met, rank, width))
            scales.append(None)
    order = torch.randperm(calls * met, generator=draw, device=DEVICE).view(calls, QUESTIONS, TOP)
    x, y = _some(draw, QUESTIONS, tokens, h1), _some(draw, QUESTIONS, tokens, h2)
    weights = torch.rand(QUESTIONS, TOP, generator=draw, device=DEVICE)
    problems = [
        Products(y, x, *banks, slots.contiguous(), weights, 0.5, None, *scales) for slots in order
    ]
    return Site(problems, met * rank * (h1 + h2) * size)


def _some(draw: torch.Generator, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=draw, device=DEVICE).to(dtype)


def seconds(calls: list[Call], rounds: int = 15) -> float:
    """Median seconds of one call, all of them together in a CUDA graph."""
    if SMOKE:
        began = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - began) / len(calls)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles, and fills the allocator's pool
        calls[0]()
        calls[-1]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return statistics.median(_events(graph.replay, rounds)) / len(calls)


def _events(run: Call, rounds: int) -> Iterator[float]:
    """Seconds of each run after two that are not counted."""
    for turn in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if turn > 1:
            yield start.elapsed_time(end) / 1e3


def over(problems: list[Products], run: Callable[[Products], Any]) -> list[Call]:
    """One call for each problem."""
    return [lambda p=p: run(p) for p in problems]  # type: ignore[misc]


def checks() -> dict[str, Any]:
    """Worst error over what is allowed (plain torch's error and a tolerance), and the failures."""
    allowances = {torch.float32: 3e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
    shapes = (
        [(37, 50, 3)] if SMOKE else [(2048, 512, 2), (520, 1000, 8), (37, 50, 3), (256, 96, 40)]
    )
    token_counts = (1, 9) if SMOKE else (1, 8, 9, 40, 200)
    worst, failed, count = 0.0, [], 0
    grid = itertools.product(shapes, token_counts, allowances, (False, True), (False, True))
    for number, (shape, tokens, dtype, int8, per_token) in enumerate(grid):
        # the most used kind at every shape, the others at the most ragged: compiling takes long
        plain = dtype is torch.bfloat16 and not int8
        if number % 7 if SMOKE else not (plain or shape == shapes[2]):
            continue
        given = _problem(*shape, tokens, dtype, int8, per_token)
        exact = {
            n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
            for n, v in given.items()
        }
        for name in "ab" if int8 else "":
            exact[name] = exact[name].double() * exact.pop(f"{name}_scale")[..., None]
        found = [_with_gradients(v, i) for v, i in
                 ((given, "triton"), (given, "reference"), (exact, "reference"))]  # fmt: skip
        for name, truth in found[2].items():
            if name not in found[0]:
                continue
            errors = [(f[name].double() - truth).abs().max() for f in found[:2]]
            # in float16 the reference's sums of int8 rows can overflow where ours don't
            allowed = (
                errors[1].nan_to_num(0.0, 0.0)
                + allowances[found[0][name].dtype] * truth.abs().max()
            )
            ratio = float(errors[0] / allowed) if truth.abs().max() > 0 else 0.0
            count, worst = count + 1, max(worst, ratio)
            if not ratio <= 1:  # not a number is a failure
                case = [*shape, tokens, str(dtype), "int8" * int8, "per token" * per_token, name]
                failed.append([*case, ratio])
    return {"compared": count, "worst_over_allowed": worst, "failed": failed}


def _problem(
    h1: int, h2: int, rank: int, tokens: int, dtype: torch.dtype, int8: bool, per_token: bool
) -> dict[str, Any]:
    draw = torch.Generator(DEVICE).manual_seed(tokens)
    slots = torch.tensor([[0, 1, -1], [4, 0, 2], [0, 1, -1], [-1, -1, -1]], device=DEVICE)
    given: dict[str, Any] = {
        "y": _some(draw, 4, tokens, h2, dtype=dtype), "x": _some(draw, 4, tokens, h1, dtype=dtype),
        "a": _some(draw, 6, rank, h1, dtype=dtype), "b": _some(draw, 6, rank, h2, dtype=dtype),
        "slots": slots, "scale": 0.5,
        "ranks": torch.tensor([rank, 1, rank, 1, 1, rank], device=DEVICE),
        "weights": torch.rand((4, tokens, 3) if per_token else (4, 3), device=DEVICE,
                              generator=draw),
    }  # fmt: skip
    for name in "ab" if int8 else "":
        given[f"{name}_scale"] = given[name].float().abs().amax(-1) / 127
        whole = (given[name].float() / given[f"{name}_scale"][..., None]).round()
        given[name] = whole.to(torch.int8)
    return given


def _with_gradients(given: dict[str, Any], impl: Any) -> dict[str, Tensor]:
    """The result without gradients (few tokens take other kernels then), and the gradients."""
    with torch.no_grad():
        found = {"result": add_lora(**given, impl=impl)}
    names = [n for n in ("x", "a", "b", "weights") if given[n].is_floating_point()]
    leaves = {n: given[n].clone().requires_grad_() for n in names}
    out = add_lora(**(given | leaves), impl=impl)
    draw = torch.Generator(DEVICE).manual_seed(1)
    weighting = torch.randn(out.shape, generator=draw, device=DEVICE).to(given["y"].dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), weighting.to(out.dtype))
    return found | dict(zip(names, grads, strict=True))


def ceiling() -> dict[str, float]:
    """Bytes per second of a copy, read and written; seconds of a launch."""
    size = 2**12 if SMOKE else 2**31
    source = torch.ones(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = seconds([lambda: target.copy_(source)])
    tiny = site(64, 64, 2, "bf16").problems[:2] * (1 if SMOKE else 100)
    calls = over(tiny, fused.add)
    in_graph = seconds(calls)
    began = time.perf_counter()
    for call in calls:
        call()
    if not SMOKE:
        torch.cuda.synchronize()
    eager = (time.perf_counter() - began) / len(calls)
    return {"copy_bytes_per_s": 2 * size / copy, "launch_s": eager, "launch_in_graph_s": in_graph}


def candidates(phase: tiles.Phase) -> list[Tile]:
    """Tiles worth trying; what doesn't fit a GPU's registers is merely slow."""
    if SMOKE:
        return [Tile(block_r=8, block_k=32, block_n=16), Tile(block_r=8, block_k=16, block_n=32)]
    if phase == "fused":
        sizes = itertools.product((128, 256, 512, 1024), (128, 256, 512, 1024), (4, 8))
        return [Tile(1, 32, k, n, 1, w) for k, n, w in sizes]
    if phase == "shrink":
        sizes = itertools.product((128, 256, 512, 1024), (1, 2, 4, 8, 16), (2, 4))
        return [Tile(1, 32, k, 512, split, w) for k, split, w in sizes]
    return [Tile(1, 32, 512, n, 1, w) for n, w in
            itertools.product((128, 256, 512, 1024), (2, 4, 8))]  # fmt: skip


def tuned() -> tiles.Table:
    """The fastest tiles of every site and rank; ``fused`` only, or both halves only, where best."""
    best: tiles.Table = {}
    shapes = {s for sites in SITES.values() for s in sites.values()}
    for (h1, h2), rank in itertools.product(sorted(shapes), RANKS):
        problems = site(h1, h2, rank, "bf16").problems[: 2 if SMOKE else 16]
        shape = (h1, h2, rank * TOP, QUESTIONS)
        choice: dict[tiles.Phase, tuple[float, Tile]] = {}
        for phase in ("fused", "shrink", "expand"):
            timed = []
            for tile in candidates(phase):  # type: ignore[arg-type]
                if max(tile.block_k, tile.block_n) * tiles.power_of_2(rank * TOP) > 16384:
                    continue
                timed.append((seconds(_half(phase, problems, tile), 5), tile))
            choice[phase] = min(timed)  # type: ignore[index]
        if choice["fused"][0] <= choice["shrink"][0] + choice["expand"][0]:
            winners = {"fused": choice["fused"]}
        else:
            winners = {p: choice[p] for p in ("shrink", "expand")}  # type: ignore[misc]
        for phase, (took, tile) in winners.items():
            key = tiles.key(phase, *shape)  # type: ignore[arg-type]
            best[key] = tile
            print(
                json.dumps({"tile": key._asdict() | tile._asdict(), "us": 1e6 * took}), flush=True
            )
    return best


def _half(phase: str, problems: list[Products], tile: Tile) -> list[Call]:
    """Calls of one kernel with one tile."""
    rows = [fused.rows_of(fused.Bank(p.slots, TOP), p.a, p.x.shape[1]) for p in problems]
    planes = launches.shrink(problems[0].x, problems[0].a, rows[0], None, tile)
    calls: list[Call] = []
    for p, r in zip(problems, rows, strict=True):
        w, out = fused.each_token(p.weights, 1), torch.empty_like(p.y)
        if phase == "fused":
            calls.append(lambda p=p, r=r, w=w, out=out: launches.fused(
                out, p.y, p.x, p.a, p.b, r, w, p.scale, (None, None), tile))  # fmt: skip
        elif phase == "shrink":
            calls.append(lambda p=p, r=r: launches.shrink(p.x, p.a, r, None, tile))
        else:
            calls.append(lambda p=p, r=r, w=w, out=out: launches.expand(
                out, p.y, planes[:1], p.b, r, w, p.scale, None, tile))  # fmt: skip
    return calls


def two_dots(p: Products) -> Tensor:
    """The usual two kernels: shrink, then expand, each a dot on tiles of 16 tokens."""
    rows = fused.rows_of(fused.Bank(p.slots, TOP), p.a, p.x.shape[1])
    tile = Tile(16, 64, 128, 128)
    planes = launches.shrink(p.x, p.a, rows, p.a_scale, tile)
    weights, out = fused.each_token(p.weights, p.x.shape[1]), torch.empty_like(p.y)
    return launches.expand(out, p.y, planes, p.b, rows, weights, p.scale, p.b_scale, tile)


def measured(copy: float) -> Iterator[dict[str, Any]]:
    """Each site of each model: ours and the peers, and the share of the ceiling."""
    kinds = ("int8",) if SMOKE else ("bf16", "int8")
    for (model, sites), rank, kind in itertools.product(SITES.items(), RANKS, kinds):
        for name, (h1, h2) in sites.items():
            at = site(h1, h2, rank, kind)
            ours = seconds(over(at.problems, fused.add))
            peers = {"two dots": two_dots, "gather + bmm": reference.add}
            took = {n: seconds(over(at.problems[:8], run)) for n, run in peers.items()}
            yield {
                "model": model, "site": name, "rank": rank, "bank": kind, "us": 1e6 * ours,
                "of_ceiling": at.bytes / ours / copy,
                **{f"times_{n}": t / ours for n, t in took.items()},
            }  # fmt: skip
            del at


def gate() -> dict[str, float]:
    """28 resident deltas of rank 8, 2 of them for each token; over the static mixture of 2."""
    h1, h2, k, rank = (40, 64, 4, 2) if SMOKE else (2048, 8192, 28, 8)
    draw = torch.Generator(DEVICE).manual_seed(2)
    a, b = _some(draw, k, rank, h1), _some(draw, k, rank, h2)
    x, y = _some(draw, QUESTIONS, 1, h1), _some(draw, QUESTIONS, 1, h2)
    chosen = torch.rand(QUESTIONS, k, generator=draw, device=DEVICE).topk(2).indices
    weights = torch.zeros(QUESTIONS, 1, k, device=DEVICE).scatter_(-1, chosen[:, None], 0.5)
    everyone = torch.arange(k, device=DEVICE).expand(QUESTIONS, k).contiguous()
    gated = Products(y, x, a, b, everyone, weights, 0.5)
    static = Products(y, x, a, b, chosen, torch.full((QUESTIONS, 2), 0.5, device=DEVICE), 0.5)
    ours = seconds(over([gated] * 4, fused.add))
    found = {"us": 1e6 * ours, "times_static": ours / seconds(over([static] * 4, fused.add))}
    for name, run in (("loop", strategies.add_loop), ("gathered", strategies.add_gathered)):
        found[f"loop_times_{name}"] = _eager(lambda run=run: run(gated)) / _eager(  # type: ignore[misc]
            lambda: fused.add(gated)
        )
    return found


def _eager(run: Call, rounds: int = 20) -> float:
    """Median wall seconds, launches of Python included: the peers wait for the device."""
    took = []
    for _ in range(2 if SMOKE else rounds):
        began = time.perf_counter()
        run()
        if not SMOKE:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def prefill() -> dict[str, float]:
    """All deltas' time over the base linear's, each site."""
    found = {}
    for model, sites in SITES.items():
        for name, (h1, h2) in sites.items():
            at = site(h1, h2, RANKS[0], "bf16", 10 if SMOKE else 128)
            base = torch.empty(h2, h1, dtype=torch.bfloat16, device=DEVICE).normal_()
            linear = seconds([lambda: torch.nn.functional.linear(at.problems[0].x, base)] * 4)  # noqa: B023
            found[f"{model} {name}"] = seconds(over(at.problems[:4], fused.add)) / linear
    return found


def main() -> None:
    """Print and keep everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"))
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    on = "cpu" if SMOKE else torch.cuda.get_device_name()
    found: dict[str, Any] = {
        "device": on, "torch": torch.__version__, "triton": triton.__version__, "smoke": SMOKE,
        "questions": QUESTIONS, "top": TOP, "checks": checks(),
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    with torch.inference_mode():
        found["ceiling"] = ceiling()
        print(json.dumps(found["ceiling"]), flush=True)
        found["gate"], found["prefill"] = gate(), prefill()
        print(json.dumps({"gate": found["gate"], "prefill": found["prefill"]}), flush=True)
        best = tuned()
        tiles.TABLE.update(best)
        found["sites"] = []
        for line in measured(found["ceiling"]["copy_bytes_per_s"]):
            found["sites"].append(line)
            print(json.dumps(line), flush=True)
    print(tiles.write(best), flush=True)
    found["tiles"] = [key._asdict() | tile._asdict() for key, tile in best.items()]
    text = json.dumps(found)
    if options.out is not None:
        (Path(options.out) / "kernels.json").write_text(text)
    print(text)
    if found["checks"]["failed"]:
        raise SystemExit("some kernels err more than plain torch")


if __name__ == "__main__":
    main()
