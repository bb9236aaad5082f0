"""Many low-rank deltas in one batch; knows only torch."""

from adapterdb.kernels.gated import Gated, TokenGate, add_gated, gate_weights
from adapterdb.kernels.lora import IMPLS, Impl, add_lora

__all__ = ["IMPLS", "Gated", "Impl", "TokenGate", "add_gated", "add_lora", "gate_weights"]
