"""Folding: one mixture added into copies of the target weights, for as long as a ``with`` lasts.

Semantics at each site: ``W' = W + scale * B @ A``, computed in float32 and rounded once to the
dtype of W. The base's own tensors are set aside, never written: afterwards they are back, the very
same. Costs a copy of the target weights and saves the products at every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adapterdb.adapted_model import Factors
from adapterdb.layout import DeltaLayout


@contextmanager
def folded(
    model: nn.Module, layout: DeltaLayout, factors: Factors, scale: float = 1.0
) -> Iterator[nn.Module]:
    """``model`` with the products of ``factors`` in its weights inside the block.

    Args:
        factors: for each site ``a (1, R', H1)`` and ``b (1, R', H2)``: one mixture for all rows.
        scale: multiplies every product.
    """
    modules = [model.get_submodule(site.name) for site in layout.sites]
    own = [module.weight for module in modules]
    originals = [weight.data for weight in own if isinstance(weight, Tensor)]
    try:
        for module, weight, (a, b) in zip(modules, originals, factors, strict=True):
            assert isinstance(module.weight, Tensor)
            module.weight.data = folded_weight(module, weight, a[0], b[0], scale)
        yield model
    finally:
        for module, weight in zip(modules, originals, strict=True):
            assert isinstance(module.weight, Tensor)
            module.weight.data = weight


def folded_weight(module: nn.Module, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``weight`` plus ``scale * B @ A`` as a new tensor, in its own orientation and dtype.

    Args:
        module: whose weight it is; GPT-2's Conv1D keeps it as (in, out).
        a: ``(R, H1)``; b: ``(R, H2)``.
    """
    a, b = a.float() * scale, b.float()
    left, right = (a, b) if type(module).__name__ == "Conv1D" else (b, a)
    if weight.dtype == torch.float32:
        return torch.addmm(weight, left.mT, right)
    return torch.addmm(weight.float(), left.mT, right).to(weight.dtype)
