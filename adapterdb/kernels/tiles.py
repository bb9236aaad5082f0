"""Tile sizes of the Triton kernels: data, and rules where there is no data.

A table maps a ``Key`` to a ``Tile``. ``gpu/kernels.py`` measures candidates on a device and prints
the best ones as JSON; ``read`` takes that text, and what is to stay goes into ``TABLE`` below. The
rules are reasoned for an H200 from bytes and registers, not measured. Knows numbers only.
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple, get_args

from adapterdb.errors import InvalidInput

Phase = Literal["fused", "shrink", "expand", "shrink_tiles", "expand_tiles", "outer"]
FEW_TOKENS = 8  # per batch row; above, rows are shared by enough tokens for dots to pay


class Key(NamedTuple):
    """What a tile is chosen by.

    Attributes:
        phase: which kernel; ``*_tiles`` are those for many tokens.
        k: H1, the length of shrink's sums, 0 for expand; n: H2, expand's width, 0 for shrink.
        rows: bank rows a token meets, rounded up to a power of two.
        tokens: in the batch, rounded up to a power of two; in a batch row where ``*_tiles``.
    """

    phase: Phase
    k: int
    n: int
    rows: int
    tokens: int


class Tile(NamedTuple):
    """Block sizes, powers of two; each kernel reads those it has.

    Attributes:
        block_m: tokens of a program; 1 means sums of products, 16 or more dots.
        block_r: most bank rows of a block.
        block_k: of the summed dimension (of tokens, in ``outer``).
        block_n: of the result's width.
        split: programs that share one sum, each with a plane of its own.
        warps: of 32 threads; stages: of the loads' pipeline.
    """

    block_m: int = 1
    block_r: int = 32
    block_k: int = 512
    block_n: int = 512
    split: int = 1
    warps: int = 4
    stages: int = 2


Table = dict[Key, Tile]

TABLE: Table = {}  # measured tiles; none yet


def choose(
    phase: Phase, k: int, n: int, rows: int, tokens: int, table: Table | None = None
) -> Tile:
    """The measured tile of this shape, or the rule's."""
    wanted = key(phase, k, n, rows, tokens)
    return (TABLE if table is None else table).get(wanted) or _rule(wanted)


def key(phase: Phase, k: int, n: int, rows: int, tokens: int) -> Key:
    """Under which a shape's tile is in a table."""
    k, n = (0 if phase.startswith("expand") else k), (0 if phase.startswith("shrink") else n)
    return Key(phase, k, n, power_of_2(rows), power_of_2(tokens))


def in_one_launch(k: int, n: int, rows: int, tokens: int, table: Table | None = None) -> bool:
    """Whether few tokens take ``fused``: as measured, or where reading A again costs little.

    A table has ``fused`` for the shapes where it won, ``shrink`` for those where two launches did.
    By the rule each tile of N reads K numbers of A again, out of L2, beside its share of the N
    numbers of B out of memory; up to four times as many are hidden by the launch that is saved.
    """
    table = TABLE if table is None else table
    for phase in get_args(Literal["fused", "shrink"]):
        if key(phase, k, n, rows, tokens) in table:
            return bool(phase == "fused")
    tile = choose("fused", k, n, rows, tokens, table)
    return -(-n // tile.block_n) * k <= 4 * n


def write(table: Table) -> str:
    """The table as JSON, one line for each tile."""
    lines = [json.dumps(k._asdict() | tile._asdict()) for k, tile in table.items()]
    return "[\n" + ",\n".join(lines) + "\n]"


def read(text: str) -> Table:
    """The table that ``write`` wrote.

    Raises:
        InvalidInput: on anything else.
    """
    try:
        entries = json.loads(text)
        table = {
            Key(**{f: e[f] for f in Key._fields}): Tile(**{f: e[f] for f in Tile._fields})
            for e in entries
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"not a table of tiles: {error!r}", hint="take the one gpu/kernels.py prints"
        ) from error
    for known in table:
        if known.phase not in get_args(Phase):
            raise InvalidInput(f"phase {known.phase!r} is not one of {', '.join(get_args(Phase))}")
    return table


def _rule(wanted: Key) -> Tile:
    """Registers hold one block of products: at most 4096 a program of four warps."""
    rows = min(64, max(2, wanted.rows))
    if wanted.phase == "fused":
        narrow = wanted.n <= 512
        return Tile(1, rows, _fit(rows, 64, 512), _fit(rows, 64, 256 if narrow else 1024))
    if wanted.phase == "shrink":
        # enough programs for every multiprocessor twice, as long as each has a block to sum
        split = max(1, min(wanted.k // 512, 256 // max(1, wanted.tokens)))
        return Tile(1, rows, _fit(rows, 64, 512), split=power_of_2(split))
    if wanted.phase == "expand":
        return Tile(1, rows, block_n=_fit(rows, 64, 512))
    block_m = min(64, max(16, wanted.tokens))
    rows = max(16, rows)
    if wanted.phase == "shrink_tiles":
        return Tile(block_m, rows, block_k=128, split=1, stages=3)
    if wanted.phase == "expand_tiles":
        return Tile(block_m, rows, block_n=128, warps=8 if block_m == 64 else 4)
    return Tile(16, rows, block_k=64, block_n=128)


def _fit(rows: int, low: int, high: int) -> int:
    return max(low, min(high, 4096 // rows))


def power_of_2(number: int) -> int:
    """The smallest that is not smaller."""
    return 1 << max(0, number - 1).bit_length()
