"""Many low-rank deltas in one batch; knows only torch."""

from adapterdb.kernels.gated import Gated, TokenGate, add_gated, gate_weights
from adapterdb.kernels.lora import IMPLS, Impl, add_lora
from adapterdb.kernels.quantized import Quantized, quantize

__all__ = [
    "IMPLS",
    "Gated",
    "Impl",
    "Quantized",
    "TokenGate",
    "add_gated",
    "add_lora",
    "gate_weights",
    "quantize",
]
