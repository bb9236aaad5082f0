"""Causal attention of short sequences in bfloat16, several times as fast as torch's on AMX CPUs.

torch writes every score to memory some eight times there and back; with heads of 32 units that is
a third of a step of training. The C kernel beside this file keeps 16 rows of scores in the
cache. It has no second derivative, and it exists where a C compiler and the CPU's tiles do;
elsewhere, and for other shapes and dtypes, plain torch computes the same.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("attention.c")
UNITS = 32  # of a head, as the kernel wants them
COMPILE = ("cc", "-O3", "-march=native", "-mamx-tile", "-mamx-bf16", "-fopenmp", "-shared", "-fPIC")


def causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, twice: bool = False) -> Tensor:
    """Causal softmax attention `[N, T, H]` of queries, keys and values, each `[N, T, H]`.

    Args:
        q: queries.
        k: keys.
        v: values.
        heads: H / heads units each.
        twice: whether the result will be differentiated twice.
    """
    if not twice and q.dtype is torch.bfloat16 and q.is_cpu and q.shape[-1] == UNITS * heads:
        found = kernel()
        if found is not None:
            mixed: Tensor = _Causal.apply(q.contiguous(), k.contiguous(), v.contiguous(), found)
            return mixed
    own, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (own @ keys.mT) / math.sqrt(own.shape[-1])
    scores = scores + causal_mask(q.shape[1], q.device).to(q.dtype)
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """`[T, T]` float32: 0 where column <= row, -inf elsewhere."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)


@cache
def kernel() -> ctypes.CDLL | None:
    """The kernel, compiled for this machine, or None where it can't be."""
    if not torch.cpu._is_amx_tile_supported():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.so"
        try:
            command = [*COMPILE, "-o", str(path), str(SOURCE), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"attention by torch, as the kernel does not compile: {error}")
            return None
        found = ctypes.CDLL(str(path))
    return found if found.mini_attention_ready() == 0 else None


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, found: ctypes.CDLL) -> Tensor:
        heads = q.shape[-1] // UNITS
        out = torch.empty_like(q)
        sums = torch.empty(len(q), heads, q.shape[1])
        found.mini_attention(*_pointers(out, sums, q, k, v), *_sizes(q))
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.found = found
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        found = [torch.empty_like(q) for _ in range(3)]
        given = _pointers(*found, gradient.contiguous(), q, k, v, out, sums)
        ctx.found.mini_attention_backward(*given, *_sizes(q))
        return (*found, None)


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _sizes(q: Tensor) -> list[ctypes.c_int64]:
    sizes = (len(q), q.shape[1], q.shape[-1] // UNITS, torch.get_num_threads())
    return [ctypes.c_int64(size) for size in sizes]
