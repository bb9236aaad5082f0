"""Compiles every Triton kernel for an H200, on a machine without one: the interpreter accepts more.

For the tiles of ``tiles.choose`` at Llama-3.2-1B's sites, in bfloat16, float32 and over int8 banks,
with and without every optional argument. Prints registers' spills in bytes where the tools that
come with Triton tell, and the shared memory of each; fails where Triton does.

    python gpu/compile.py
    python gpu/compile.py --few      one tile of each kernel
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # Triton reads it when it is first imported
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what versions before 3.10 do unasked

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adapterdb.kernels import tiles, triton_lora
from adapterdb.kernels.launches import block_rows

H200 = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024  # that a block of an H200 can have
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
INT64 = {"slots", "ranks", "order", "starts", "ends", "pairs", "bounds"}
FLOAT32 = {"weights", "a_scale", "b_scale", "planes", "left"}
NUMBERS = {"out", "y", "x"}
BANKS = {"a", "b"}
WIDE = {"h1", "h2", "width", "chunk", "plane", "a_entry", "a_row", "b_entry", "b_row"}
OPTIONAL = {
    "fused": ({"ranks", "a_scale", "b_scale"}, {"weights", "slots"}),
    "shrink": ({"ranks", "a_scale"}, {"order", "starts", "ends"}, {"slots"}),
    "expand": ({"ranks", "b_scale"}, {"order", "starts", "ends"}, {"y", "weights", "slots"}),
    "outer": ({"ranks"}, {"pairs", "bounds"}),
}


def variants(few: bool) -> Iterator[tuple[str, torch.dtype, bool, set[str], tiles.Tile]]:
    """Kernel, dtype, whether the bank is int8, the arguments that are None, and a tile."""
    phases: tuple[tiles.Phase, ...] = (
        "fused", "shrink", "expand", "shrink_tiles", "expand_tiles", "outer"
    )  # fmt: skip
    for phase in phases:
        kernel = phase.removesuffix("_tiles")
        shapes = [(2048, 8192, 6, 64)] if few else [
            (h1, h2, rows, tokens) for h1, h2 in ((2048, 8192), (8192, 2048), (2048, 512))
            for rows in (6, 24) for tokens in (16, 64)
        ]  # fmt: skip
        chosen = {shape[2]: tiles.choose(phase, *shape) for shape in shapes}
        for rows, tile in chosen.items():
            sized = tile._replace(block_r=block_rows(rows, tile))
            absent: set[str] = set()
            for more in (set(), *OPTIONAL[kernel]):
                absent = absent | more
                yield kernel, torch.bfloat16, False, absent, sized
            yield kernel, torch.bfloat16, True, set(), sized
            yield kernel, torch.float32, False, set(), sized


def compiled(name: str, dtype: torch.dtype, int8: bool, absent: set[str], tile: tiles.Tile) -> Any:
    """The kernel for an H200."""
    kernel = getattr(triton_lora, name)
    blocks = {"DOT": triton_lora.dot_type(dtype), "BLOCK_T": tile.block_k}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    aligned: dict[tuple[int], Any] = {}
    for place, argument in enumerate(kernel.arg_names):
        if argument.isupper():
            signature[argument] = "constexpr"
            size = getattr(tile, argument.lower(), None)
            constants[(place,)] = blocks.get(argument, size)
        elif argument in absent:
            signature[argument], constants[(place,)] = "constexpr", None
        else:
            signature[argument] = _type(argument, NAMES[dtype], int8)
            if signature[argument][0] == "*" or argument in WIDE:
                aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(source, target=H200, options=options)


def _type(argument: str, dtype: str, int8: bool) -> str:
    if argument in INT64:
        return "*i64"
    if argument in FLOAT32:
        return "*fp32"
    if argument in NUMBERS:
        return f"*{dtype}"
    if argument in BANKS:
        return "*i8" if int8 else f"*{dtype}"
    return "fp32" if argument == "gain" else "i32"


def spilled(binary: bytes) -> str:
    """Bytes of a thread's stack, which hold registers that ran out."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return "unknown"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        done = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True
        )
    found = re.search(r"STACK:(\d+)", done.stdout)
    return found[1] if found else "unknown"


def main() -> None:
    """Compile, print a line each, fail if one does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", action="store_true")
    print(f"triton {triton.__version__}, {H200}")
    for name, dtype, int8, absent, tile in variants(parser.parse_args().few):
        made = compiled(name, dtype, int8, absent, tile)
        bank = "int8" if int8 else NAMES[dtype]
        print(
            f"{name:7} {NAMES[dtype]} over {bank:5} {tuple(tile)} without {len(absent)}:"
            f" stack {spilled(made.asm['cubin'])}, shared {made.metadata.shared}",
            flush=True,
        )
        if made.metadata.shared > SHARED_BYTES:
            raise SystemExit(f"more than the {SHARED_BYTES} bytes of shared memory of an H200")


if __name__ == "__main__":
    main()
