"""The table of tile sizes: rules, lookup, and its text."""

from __future__ import annotations

from typing import get_args

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.kernels import tiles
from adapterdb.kernels.tiles import Key, Phase, Tile

SITES = ((2048, 8192), (8192, 2048), (2048, 512), (4096, 14336), (37, 50))


@pytest.mark.parametrize("phase", get_args(Phase))
def test_rules_give_powers_of_two_that_dots_accept(phase: Phase) -> None:
    """Every shape has a tile; dots sum 16 numbers at least, and blocks fit the registers."""
    for k, n in SITES:
        for rows in (1, 6, 24, 200):
            for tokens in (1, 64, 5000):
                tile = tiles.choose(phase, k, n, rows, tokens)
                assert all(size == tiles.power_of_2(size) for size in tile[:-1])
                if tile.block_m > 1:
                    assert min(tile.block_m, tile.block_r, tile.block_k) >= 16
                else:
                    assert tile.block_r * min(tile.block_k, tile.block_n) <= 8192


def test_a_measured_tile_goes_before_the_rule() -> None:
    """Rows and tokens are looked up by the power of two above them."""
    table = {Key("fused", 2048, 8192, 8, 64): Tile(block_n=128, warps=2)}
    assert tiles.choose("fused", 2048, 8192, 6, 50, table) == Tile(block_n=128, warps=2)
    assert tiles.choose("fused", 2048, 8192, 9, 50, table) == tiles.choose(
        "fused", 2048, 8192, 9, 50
    )


def test_halves_are_looked_up_by_their_own_width() -> None:
    """Shrink doesn't depend on N, nor expand on K."""
    table = {Key("shrink", 64, 0, 8, 1): Tile(split=4), Key("expand", 0, 32, 8, 1): Tile(warps=8)}
    assert tiles.choose("shrink", 64, 99, 8, 1, table).split == 4
    assert tiles.choose("expand", 99, 32, 8, 1, table).warps == 8


def test_few_tokens_take_one_launch_unless_a_is_long() -> None:
    """gate, up and q of a Llama read A again for little; down does not."""
    assert tiles.in_one_launch(2048, 8192, 6, 64)
    assert tiles.in_one_launch(2048, 2048, 6, 64)
    assert not tiles.in_one_launch(8192, 2048, 6, 64)
    assert tiles.in_one_launch(8192, 2048, 6, 64, {Key("fused", 8192, 2048, 8, 64): Tile()})
    assert not tiles.in_one_launch(2048, 2048, 6, 64, {Key("shrink", 2048, 0, 8, 64): Tile()})


def test_tables_survive_as_text() -> None:
    """What gpu/kernels.py prints is what ``read`` gives back."""
    table = {Key("fused", 2048, 8192, 8, 64): Tile(1, 8), Key("outer", 1, 2, 4, 8): Tile(16)}
    assert tiles.read(tiles.write(table)) == table
    assert tiles.read(tiles.write({})) == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"phase": "fused"}]', "5"])
def test_other_text_is_refused(text: str) -> None:
    """Text that is no table is named as such."""
    with pytest.raises(InvalidInput, match="tiles"):
        tiles.read(text)


def test_unknown_phases_are_refused() -> None:
    """A table of another version's kernels is not half read."""
    text = tiles.write({Key("fused", 1, 1, 1, 1): Tile()}).replace("fused", "melted")
    with pytest.raises(InvalidInput, match="melted"):
        tiles.read(text)
