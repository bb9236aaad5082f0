"""``add_lora`` and ``add_gated`` in C, for the few tokens of a decoding step on a CPU.

At one token for each set of deltas a torch path spends its time between the kernels (copies, fresh
pages, a dozen small operations for a gate) and, in bfloat16, in products too thin for its GEMM. The
C kernel reads the bank where it lies, by slots if need be, keeps sums in float32 and writes y once.

The trade-off: no gradient, one thread, nothing for many tokens, and it exists only where a C
compiler of the GCC or clang kind did at installation (``native.c`` needs no header of Python or
torch). So it is optional: ``obstacle`` says why it can't run, and the torch path is always there.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels.products import Products

logger = logging.getLogger(__name__)

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
# the records of native.c, field by field
_TOKENS = Struct("@2P7qf")
_BANK = Struct("@2P4q3P4q")
_GATE = Struct("@8Pq2Pq")

# Tokens in a run up to which it was faster than torch when tried on one thread, 16 runs of 6 or 24
# rank rows (benchmarks/bench_kernels.py times one token): float32 by 1.1 to 1.5 at one or two,
# bfloat16 by 3 to 7 at one and 2 at eight. It keeps one thread busy, so more than so many numbers
# for each other thread are left to torch; that bound is a guess.
MOST_TOKENS = {torch.float32: 4, torch.bfloat16: 8}
MOST_NUMBERS = 4_000_000


@cache
def library(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The compiled kernel, or None where it was not built."""
    for suffix in EXTENSION_SUFFIXES:
        path = folder / ("_native" + suffix)
        if path.exists():
            try:
                return _declared(ctypes.CDLL(str(path)))
            except OSError as error:  # built for another machine
                logger.info("the C kernel %s can't be loaded: %s", path, error)
    logger.info("decoding on a CPU takes the torch path: there is no C kernel in %s", folder)
    return None


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    record = ctypes.c_char_p
    found.adb_lora.argtypes = [record, record, pointer, pointer, number, number]
    found.adb_gated.argtypes = [record, record, record, pointer]
    found.adb_lora.restype = found.adb_gated.restype = None
    return found


def pays(p: Products) -> bool:
    """Whether it was measured faster than torch: few tokens in a run, and not too much work."""
    most = MOST_TOKENS.get(p.x.dtype, 0)
    if p.tokens > most or not p.x.is_cpu:
        return False
    deltas = len(p.a) if p.slots is None else p.slots.numel()
    numbers = deltas * p.a.shape[1] * (p.a.shape[2] + p.b.shape[2]) * p.tokens
    threads = torch.get_num_threads()
    return threads == 1 or numbers * (threads - 1) <= MOST_NUMBERS


def obstacle(p: Products) -> str | None:
    """Why the kernel can't compute this, or None."""
    if library() is None:
        return "the C kernel is missing: it is built when AdapterDB is installed with a C compiler"
    if not (p.x.is_cpu and p.a.is_cpu and p.b.is_cpu and p.y.is_cpu):
        return f"it runs on a CPU, and x is on {p.x.device}"
    if p.x.dtype not in _DTYPES or p.x.dtype is torch.int8 or p.y.dtype != p.x.dtype:
        return f"x is {p.x.dtype} and y {p.y.dtype}; both must be float32 or both bfloat16"
    if p.a.dtype not in _DTYPES or p.b.dtype != p.a.dtype:
        return f"a is {p.a.dtype} and b {p.b.dtype}; both must be float32, bfloat16 or int8"
    if p.a.stride(2) != 1 or p.b.stride(2) != 1:
        return "the last dimension of a and b must be contiguous"
    if p.differentiable:
        return "it has no gradient, and one may be asked for here"
    return None


def add(p: Products) -> Tensor:
    """``y`` plus the products; there must be no ``obstacle``."""
    kernel = library()
    assert kernel is not None
    out = p.y if p.writable else p.y.clone(memory_format=torch.contiguous_format)
    rows = len(p.a) if p.slots is None else len(p.x)
    x = p.x.reshape(rows, -1, p.x.shape[-1]).contiguous()
    given = (p.weights, p.a_scale, p.b_scale)
    weights, a_scale, b_scale = (None if t is None else as_floats(t) for t in given)
    slots = None if p.slots is None else _checked(p.slots, len(p.a))
    ranks = None if p.ranks is None else p.ranks.contiguous()
    bank = _bank(p.a, p.b, _at(ranks), _at(a_scale), _at(b_scale))
    kernel.adb_lora(
        _tokens(out, x, p.scale),
        bank,
        _at(slots),
        _at(weights),
        1 if slots is None else slots.shape[1],
        weights is not None and weights.dim() == 3,
    )
    return out


class GateTables(NamedTuple):
    """A gate as the kernel reads it: contiguous, and live as long as it is used."""

    live: Tensor
    fixed: Tensor
    top_k: Tensor
    temperature: Tensor
    cores: Tensor | None
    offset: Tensor | None
    vectors: Tensor | None
    learned: Tensor | None


def add_gated(p: Products, gate: GateTables) -> tuple[Tensor, Tensor, Tensor]:
    """``add_gated`` for aligned runs; there must be no ``obstacle``, and int8 is one.

    Returns:
        y, and float32 logits and weights ``(S, T', K)``.
    """
    kernel = library()
    assert kernel is not None
    rows, deltas = gate.live.shape
    out = p.y if p.writable else p.y.clone(memory_format=torch.contiguous_format)
    x = p.x.reshape(rows, -1, p.x.shape[-1]).contiguous()
    # both in one piece of memory, with scratch for the products of a token behind them
    size = rows * x.shape[1] * deltas
    found = torch.empty(2 * size + p.a.shape[1], dtype=torch.float32)
    at = found.data_ptr()
    pointers = [_at(t) for t in (gate.live, gate.fixed, gate.learned, gate.top_k)]
    pointers += [_at(t) for t in (gate.temperature, gate.cores, gate.offset, gate.vectors)]
    kind = 0 if gate.vectors is None else _DTYPES[gate.vectors.dtype]
    kernel.adb_gated(
        _tokens(out, x, p.scale),
        _bank(p.a, p.b),
        _GATE.pack(*pointers, kind, at, at + 4 * size, deltas),
        at + 8 * size,
    )
    shape = (rows, x.shape[1], deltas)
    return out, found[:size].view(shape), found[size : 2 * size].view(shape)


def _tokens(y: Tensor, x: Tensor, scale: float) -> bytes:
    """x ``(rows, T', H1)`` and y of as many tokens, both contiguous."""
    rows, tokens, wide = x.shape
    out = y.shape[-1]
    return _TOKENS.pack(
        y.data_ptr(), x.data_ptr(), tokens * out, out, tokens * wide, wide,
        rows, tokens, _DTYPES[x.dtype], scale,
    )  # fmt: skip


def _bank(a: Tensor, b: Tensor, ranks: int = 0, a_scale: int = 0, b_scale: int = 0) -> bytes:
    a_slot, a_row, _ = a.stride()
    b_slot, b_row, _ = b.stride()
    return _BANK.pack(
        a.data_ptr(), b.data_ptr(), a_slot, a_row, b_slot, b_row, ranks, a_scale, b_scale,
        a.shape[1], a.shape[2], b.shape[2], _DTYPES[a.dtype],
    )  # fmt: skip


def _checked(slots: Tensor, bank_rows: int) -> Tensor:
    """Contiguous slots; the kernel would read beyond the bank."""
    if slots.numel() and int(slots.max()) >= bank_rows:
        raise InvalidInput(f"slot {int(slots.max())} is outside the bank of {bank_rows} rows")
    return slots.contiguous()


def as_floats(t: Tensor) -> Tensor:
    """Contiguous float32."""
    return t.detach().to(torch.float32).contiguous()


def _at(t: Tensor | None) -> int:
    """Where a tensor's numbers are; 0 for none, which C reads as NULL."""
    return 0 if t is None else t.data_ptr()
