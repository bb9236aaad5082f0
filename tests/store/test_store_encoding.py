"""Stored bytes of rows: sizes, and what ten bits keep of a number."""

from __future__ import annotations

import pytest
import torch

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt
from adapterdb.store.encoding import (
    BLOCK,
    dequantize,
    numbers_in,
    quantize,
    read_dtype,
    stored_bytes,
)


def through(rows: torch.Tensor) -> torch.Tensor:
    """Rows quantized and back."""
    back = torch.empty_like(rows)
    for stored, row in zip(quantize(rows), back, strict=True):
        dequantize(stored, row)
    return back


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8"])
def test_size_and_numbers_follow_from_each_other(dtype: DeltaDtype) -> None:
    """Every P has its own size, and sizes that no P has are refused."""
    sizes = {stored_bytes(dtype, numbers): numbers for numbers in range(1, 300)}
    assert len(sizes) == 299
    for size in range(-3, max(sizes)):
        if size in sizes:
            assert numbers_in(dtype, size) == sizes[size]
        else:
            with pytest.raises(Corrupt):
                numbers_in(dtype, size)


def test_int8_takes_eleven_bits_a_number() -> None:
    """Ten of its own, and one of its block's scale."""
    assert stored_bytes("int8", 184_320) == 184_320 * 11 // 8
    assert read_dtype("int8") == torch.float32


@pytest.mark.parametrize("numbers", [1, 3, 4, 15, 16, 17, 64, 70, 333])
def test_a_number_is_kept_to_a_thousandth_of_the_largest_of_its_block(numbers: int) -> None:
    """Whatever P is, and however differently blocks are scaled."""
    seed = int(torch.seed() % 2**32)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, numbers, generator=generator)
    rows *= torch.logspace(-30, 30, 4)[:, None] * torch.logspace(0, 4, numbers)
    back = through(rows)
    for first in range(0, numbers, BLOCK):
        block, got = rows[:, first : first + BLOCK], back[:, first : first + BLOCK]
        largest = block.abs().amax(1, keepdim=True)
        assert ((got - block).abs() <= largest / 1000).all(), f"seed {seed}"


def test_extremes_are_kept() -> None:
    """The largest number of a block, of either sign, is not cut off; zeros stay zeros."""
    rows = torch.zeros(3, 32)
    rows[0, 0], rows[0, 1] = 511.0, -511.0
    rows[1, 3] = torch.finfo(torch.float32).max / 2
    rows[2, 5] = 1e-45  # too small for any scale
    back = through(rows)
    assert torch.allclose(back[:2], rows[:2], rtol=4e-3)
    assert not back[2].any()


def test_quantizing_twice_changes_nothing() -> None:
    """What was read from int8 and stored as int8 again errs no more than once."""
    rows = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    once = through(rows)
    assert float((through(once) - rows).norm() / rows.norm()) < 3e-3
