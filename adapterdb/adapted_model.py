"""A frozen causal language model whose linears can act with deltas for the length of a ``with``.

Forward hooks at the layout's sites call ``kernels.add_lora``; the base weights are never touched,
so after the block the model is bit for bit what it was. Not thread-safe: whoever serves threads
holds a lock around ``using``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from adapterdb.kernels import add_lora
from adapterdb.layout import DeltaLayout

Factors = Sequence[tuple[Tensor, Tensor]]


class AdaptedModel:
    """Hooks a model once for one layout.

    Args:
        model: any causal language model with the layout's modules; frozen here.
        layout: which modules are adapted.
    """

    def __init__(self, model: nn.Module, layout: DeltaLayout) -> None:
        self.model = model.requires_grad_(False).eval()
        self.layout = layout
        self._factors: Factors | None = None
        self._scale = 1.0
        self._handles = [
            model.get_submodule(site.name).register_forward_hook(self._hook(index))
            for index, site in enumerate(layout.sites)
        ]

    @contextmanager
    def using(self, factors: Factors | None, scale: float = 1.0) -> Iterator[nn.Module]:
        """The model acting with ``factors`` inside the block.

        Args:
            factors: for each site of the layout ``a (S, R', H1)`` and ``b (S, R', H2)``, where S
                divides the batch (see ``add_lora`` without slots); None for the base model alone.
            scale: multiplies every product.
        """
        before = self._factors, self._scale
        self._factors, self._scale = factors, scale
        try:
            yield self.model
        finally:
            self._factors, self._scale = before

    def using_rows(self, rows: Tensor | None) -> Any:
        """``using`` for whole rows ``(S, P)`` of this layout, each with weight 1."""
        if rows is None:
            return self.using(None)
        return self.using(self.layout.views(rows), self.layout.scale)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, index: int) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            if self._factors is None:
                return y
            a, b = self._factors[index]
            # some models flatten (B, T) before a linear; a run per bank row is all add_lora needs
            runs = (len(a), -1)
            x = inputs[0].reshape(*runs, inputs[0].shape[-1])
            out = add_lora(y.reshape(*runs, y.shape[-1]), x, a, b, scale=self._scale)
            return out.reshape(y.shape)

        return add
