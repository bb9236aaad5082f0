"""How the numbers of a delta row become stored bytes, for each stored dtype.

    bfloat16, float16, float32   the numbers as they are
    int8                         ceil(P/16) bfloat16 scales, P int8, and ceil(P/4) bytes that hold
                                 two more bits of each: number = (4 * int8 + bits) * scale

Eight bits alone would move the effect of a delta on the logits by 2 to 4 in 1,000 with any block
size, because a few large numbers of a row carry most of its effect. Two more bits bring it under 1
in 1,000 (``benchmarks/bench_quantized.py``); the bytes are 0.69 of bfloat16's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt

if TYPE_CHECKING:  # torch takes seconds to import, and listing documents needs none
    import torch
    from torch import Tensor

ITEM_BYTES: dict[DeltaDtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
BLOCK = 16  # numbers that share a scale
LARGEST = 511  # of a signed number of ten bits


def stored_bytes(dtype: DeltaDtype, numbers: int) -> int:
    """How many bytes a row of P = ``numbers`` takes."""
    if dtype == "int8":
        return 2 * -(-numbers // BLOCK) + numbers + -(-numbers // 4)
    return numbers * ITEM_BYTES[dtype]


def numbers_in(dtype: DeltaDtype, size_bytes: int) -> int:
    """P of a row that takes ``size_bytes``; Corrupt (code ``bad_size``) if none does."""
    numbers = size_bytes // ITEM_BYTES.get(dtype, 1)
    if dtype == "int8":  # each number takes a byte, so a size belongs to at most one P
        numbers = max(0, size_bytes * 8 // 11 - 4)
        while stored_bytes(dtype, numbers + 1) <= size_bytes:
            numbers += 1
    if numbers < 1 or stored_bytes(dtype, numbers) != size_bytes:
        raise Corrupt(f"no delta row of {dtype} has {size_bytes} bytes", code="bad_size")
    return numbers


def read_dtype(dtype: DeltaDtype) -> torch.dtype:
    """The dtype of rows as they are read: that of the stored numbers, float32 for int8.

    bfloat16 would round what int8 rows say by as much as they err.
    """
    import torch

    found: torch.dtype = getattr(torch, "float32" if dtype == "int8" else dtype)
    return found


def quantize(rows: Tensor) -> Tensor:
    """Finite rows ``(n, P)`` float32 as the stored bytes ``(n, stored_bytes)`` uint8 of int8."""
    import torch
    from torch.nn.functional import pad

    n, numbers = rows.shape
    blocks = pad(rows, (0, -numbers % BLOCK)).view(n, -1, BLOCK)
    # rounded up, so that no number is cut off
    scale = (blocks.abs().amax(-1) / LARGEST * (1 + 2**-8)).bfloat16()
    # a block too small for any scale becomes zero
    steps = (blocks / scale.float()[..., None]).nan_to_num(0.0, 0.0, 0.0).round().to(torch.int16)
    steps = steps.clamp(-LARGEST, LARGEST).flatten(1)[:, :numbers]
    high = (steps >> 2).to(torch.int8)
    quarters = pad((steps & 3).to(torch.uint8), (0, -numbers % 4)).view(n, 4, -1)
    low = quarters[:, 0] | quarters[:, 1] << 2 | quarters[:, 2] << 4 | quarters[:, 3] << 6
    return torch.cat([scale.view(torch.uint8), high.view(torch.uint8), low], 1)


def dequantize(stored: Tensor, row: Tensor) -> None:
    """Write the numbers in the bytes ``stored`` of an int8 row into ``row (P,)`` float32."""
    import torch

    numbers = len(row)
    scales = 2 * -(-numbers // BLOCK)
    scale = stored[:scales].clone().view(torch.bfloat16).float()  # a clone is aligned
    low = stored[scales + numbers :]
    quarters = torch.stack([low & 3, low >> 2 & 3, low >> 4 & 3, low >> 6])
    row.copy_(stored[scales : scales + numbers].view(torch.int8))
    torch.add(quarters.view(-1)[:numbers], row, alpha=4, out=row)
    whole = numbers - numbers % BLOCK
    row[:whole].view(-1, BLOCK).mul_(scale[: whole // BLOCK, None])
    row[whole:].mul_(scale[-1])
