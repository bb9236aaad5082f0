"""Many low-rank deltas in one batch; knows only torch."""

from adapterdb.kernels.lora import add_lora

__all__ = ["add_lora"]
