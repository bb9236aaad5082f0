"""Banks of int8 with one scale for each rank row, as ``add_lora`` reads them.

One scale per rank row leaves nothing to do for each number: it multiplies the R products between A
and B. The store keeps int8 rows otherwise (ten bits and a scale for each 16 numbers,
``store/encoding.py``), which suits no dot product; its reader gives float32, from which a bank is
made here once, when a delta becomes resident. That rounds by up to 1/254 of a rank row's largest
number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """``numbers (..., R, H)`` int8 and their ``scale (..., R)`` float32."""

    numbers: Tensor
    scale: Tensor


def quantize(bank: Tensor) -> Quantized:
    """The nearest int8 bank to finite factors ``(..., R, H)``."""
    wide = bank.float()
    scale = wide.abs().amax(-1) / 127
    steps = wide / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    return Quantized(steps.round().clamp(-127, 127).to(torch.int8), scale)
