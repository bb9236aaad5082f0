"""One linear site of a decoding step on a CPU: every way to add many deltas to it, in one run.

    static   each of B questions has its own top-3 of 256 deltas with its own weights
    gated    the same three, weighed for each token: top-2 by a learned gate, or by arrow

The peers are the frozen linear itself (which every ratio "of base" is against), a loop over the
questions (as peft and MeteoRA's first forward do), MeteoRA's loop over the deltas and its gathered
bmm. The bank is bfloat16, as rows are stored, "ready" means gathered once for the request before
the clock runs; x, y and the linear are of ``--dtype``. Every result is compared with float64.

Variants are interleaved in one process; times are medians of process CPU microseconds.

    python benchmarks/bench_kernels.py [--dtype float32] [--rounds 15] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdb.kernels import TokenGate, add_gated, add_lora, gate_weights, native, quantize

BANK, TOP, BEST, SCALE = 256, 3, 2, 0.5
SITES = ((384, 1024), (768, 2048))
RANKS = (2, 8)
BATCHES = (16, 64)
CALLS = 10  # of a variant between two looks at the clock

Variants = dict[str, Callable[[Tensor], Tensor]]  # of y, which they may write


class Case(NamedTuple):
    """One site, rank and batch."""

    wide: int
    out: int
    rank: int
    batch: int

    def __str__(self) -> str:
        return f"{self.wide}x{self.out} r{self.rank} B{self.batch}"


class Problem(NamedTuple):
    """What all variants of a case are given."""

    x: Tensor  # (B, 1, H1)
    y: Tensor  # (B, 1, H2), the output of the linear
    linear: Tensor  # (H2, H1)
    a: Tensor  # (256, R, H1) bfloat16
    b: Tensor  # (256, R, H2) bfloat16
    slots: Tensor  # (B, 3)
    weights: Tensor  # (B, 3)

    def ready(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B of each question, gathered."""
        return tuple(t[self.slots].flatten(1, 2).to(dtype) for t in (self.a, self.b))  # type: ignore[return-value]


def make(case: Case, dtype: torch.dtype) -> Problem:
    """Random numbers of the sizes they have in a model."""
    g = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) / shape[-1] ** 0.5

    x = torch.randn(case.batch, 1, case.wide, generator=g).to(dtype)
    linear = numbers(case.out, case.wide).to(dtype)
    rows = numbers(BANK, case.rank * (case.wide + case.out)).bfloat16() * 20
    at = case.rank * case.wide
    slots = torch.stack([torch.randperm(BANK, generator=g)[:TOP] for _ in range(case.batch)])
    return Problem(
        x, F.linear(x, linear), linear,
        rows[:, :at].view(BANK, case.rank, case.wide),
        rows[:, at:].view(BANK, case.rank, case.out),
        slots, torch.rand(case.batch, TOP, generator=g),
    )  # fmt: skip


def question_loop(p: Problem, y: Tensor) -> Tensor:
    """One question after the other, its deltas side by side."""
    for i in range(len(p.x)):
        a, b = (t[p.slots[i]].flatten(0, 1).to(p.x.dtype) for t in (p.a, p.b))
        gain = (p.weights[i] * SCALE).repeat_interleave(p.a.shape[1]).to(p.x.dtype)
        y[i] += (p.x[i] @ a.T * gain) @ b
    return y


def static_variants(p: Problem) -> Variants:
    """Name to a call that returns y with the deltas."""
    a, b = p.ready(p.x.dtype)
    gain = p.weights.repeat_interleave(p.a.shape[1], dim=-1)[..., None]
    b = b * gain.to(b.dtype)
    a16, b16 = a.bfloat16(), b.bfloat16()
    q_a, q_b = quantize(p.a), quantize(p.b)
    found: Variants = {
        "question loop": lambda y: question_loop(p, y),
        "loop": lambda y: add_lora(y, p.x, p.a, p.b, p.slots, p.weights, SCALE, "loop"),
        "gathered": lambda y: add_lora(y, p.x, p.a, p.b, p.slots, p.weights, SCALE, "gathered"),
        "reference": lambda y: add_lora(
            y, p.x, p.a, p.b, p.slots, p.weights, SCALE, "reference", inplace=True
        ),
        "ready, torch": lambda y: add_lora(
            y, p.x, a, b, scale=SCALE, impl="reference", inplace=True
        ),
    }
    if native.library() is not None:
        found |= {
            "ready, C": lambda y: add_lora(y, p.x, a, b, scale=SCALE, impl="native", inplace=True),
            "ready bf16, C": lambda y: add_lora(
                y, p.x, a16, b16, scale=SCALE, impl="native", inplace=True
            ),
            "bank bf16, C": lambda y: add_lora(
                y, p.x, p.a, p.b, p.slots, p.weights, SCALE, "native", inplace=True
            ),
            "bank int8, C": lambda y: add_lora(
                y, p.x, q_a.numbers, q_b.numbers, p.slots, p.weights, SCALE, "native", inplace=True,
                a_scale=q_a.scale, b_scale=q_b.scale,
            ),
        }  # fmt: skip
    return found


def gates(p: Problem) -> dict[str, TokenGate]:
    """A learned gate and arrow's for the three deltas of each question."""
    batch, rank = len(p.x), p.a.shape[1]
    shared = (
        torch.ones(batch, TOP, dtype=torch.bool), torch.zeros(batch, dtype=torch.bool),
        torch.full((batch,), BEST), torch.ones(batch),
    )  # fmt: skip
    g = torch.Generator().manual_seed(1)
    vectors = torch.randn(batch, TOP, p.x.shape[-1], generator=g).to(p.x.dtype)
    cores = torch.randn(batch, TOP, rank, generator=g)
    return {
        "learned": TokenGate(*shared, None, vectors),
        "arrow": TokenGate(*shared, cores),
    }


def meteora(p: Problem, y: Tensor, gate: TokenGate, impl: str) -> Tensor:
    """A learned gate, then MeteoRA's loop or gathered bmm over the bank."""
    assert gate.vectors is not None
    logits = torch.bmm(p.x, gate.vectors.mT)
    weights = gate_weights(logits, gate.live, gate.top_k, gate.temperature)
    return add_lora(y, p.x, p.a, p.b, p.slots, weights, SCALE, impl)  # type: ignore[arg-type]


def gated_variants(p: Problem, kind: str) -> Variants:
    """The same for one kind of gate; "static" is the mixture without a gate by the same means."""
    a, b = p.ready(p.x.dtype)
    a16, b16 = a.bfloat16(), b.bfloat16()
    gate = gates(p)[kind]
    found: Variants = {}
    if kind == "learned":
        found["loop"] = lambda y: meteora(p, y, gate, "loop")
        found["gathered"] = lambda y: meteora(p, y, gate, "gathered")
    found["static, torch"] = lambda y: add_lora(
        y, p.x, a, b, scale=SCALE, impl="reference", inplace=True
    )
    found["gate, torch"] = lambda y: (
        add_gated(y, p.x, a, b, gate, SCALE, "reference", inplace=True).y
    )
    if native.library() is not None:
        found["static, C"] = lambda y: add_lora(
            y, p.x, a, b, scale=SCALE, impl="native", inplace=True
        )
        found["gate, C"] = lambda y: add_gated(y, p.x, a, b, gate, SCALE, "native", inplace=True).y
        found["static bf16, C"] = lambda y: add_lora(
            y, p.x, a16, b16, scale=SCALE, impl="native", inplace=True
        )
        found["gate bf16, C"] = lambda y: (
            add_gated(y, p.x, a16, b16, gate, SCALE, "native", inplace=True).y
        )
    return found


def truth(p: Problem, gate: TokenGate | None, weights: Tensor) -> Tensor:
    """y with the deltas in float64; a gate's weights come from its own float64 logits."""
    x, a, b = (t.double() for t in (p.x, p.a[p.slots], p.b[p.slots]))
    h = torch.einsum("bth,bkrh->btkr", x, a)
    each = weights[:, None].double()
    if gate is not None:
        if gate.cores is not None:
            logits = (h * gate.cores[:, None].double()).sum(-1).abs()
        else:
            assert gate.vectors is not None
            logits = torch.bmm(x, gate.vectors.double().mT)
        best = logits.topk(BEST, dim=-1)
        each = torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))
    return p.y.double() + SCALE * torch.einsum("btkr,bkrn->btn", h * each[..., None], b)


def check(name: str, got: Tensor, expected: Tensor) -> float:
    """The error of a variant over the size of the deltas' effect; wrong results end the run."""
    error = float((got.double() - expected).norm() / expected.norm())
    limit = 1e-2 if got.dtype == torch.bfloat16 or "16" in name or "int8" in name else 1e-5
    assert error < limit, f"{name}: relative error {error:.1e}"
    return error


def measure(variants: Variants, y: Tensor, rounds: int) -> dict[str, float]:
    """Median CPU microseconds of a call of each; as in a model, y is written where that helps."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            out = y.clone()
            call(out)
            began = time.process_time()
            for _ in range(CALLS):
                call(out)
            times[name].append((time.process_time() - began) / CALLS * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def run(case: Case, dtype: torch.dtype, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of all variants of a case, by kind of mixture."""
    p = make(case, dtype)
    base: Variants = {"base linear": lambda _: F.linear(p.x, p.linear)}
    static = static_variants(p)
    expected = truth(p, None, p.weights)
    for name, call in static.items():
        check(name, call(p.y.clone()), expected)
    found = {"static": measure(base | static, p.y, rounds)}
    for kind in ("learned", "arrow"):
        variants = gated_variants(p, kind)
        expected, ungated = truth(p, gates(p)[kind], p.weights), truth(p, None, p.weights**0)
        for name, call in variants.items():
            check(name, call(p.y.clone()), ungated if "static" in name else expected)
        found[kind] = measure(base | variants, p.y, rounds)
    return found


def show(case: Case, found: dict[str, dict[str, float]]) -> None:
    """The table of a case: each gate beside the mixture without one by the same means."""
    for kind, times in found.items():
        base, slow = times["base linear"], times.get("question loop") or times.get("loop")
        print(f"\n{str(case) + ' ' + kind:<30} CPU us   of base   of static   loop / it")
        for name, us in times.items():
            fellow = times[name.replace("gate", "static")] if name.startswith("gate") else None
            beside = f"{us / fellow:10.2f}x" if fellow else " " * 11
            faster = f"{slow / us:10.1f}x" if slow else ""
            print(f"  {name:<26} {us:9.1f} {us / base:8.3f}x {beside} {faster}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    with torch.inference_mode():
        for wide, out in SITES:
            for rank in RANKS:
                for batch in BATCHES:
                    case = Case(wide, out, rank, batch)
                    found = run(case, getattr(torch, options.dtype), options.rounds)
                    show(case, found)
                    results[str(case)] = {
                        kind: {name: round(us, 1) for name, us in times.items()}
                        for kind, times in found.items()
                    }
    setup = vars(options) | {
        "bank": BANK, "top": TOP, "best": BEST, "torch": torch.__version__,
        "machine": platform.machine(), "native": native.library() is not None,
    }  # fmt: skip
    print(json.dumps({"benchmark": "kernels", "setup": setup, "us": results}))


if __name__ == "__main__":
    main()
