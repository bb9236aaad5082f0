"""Folding: one mixture added into copies of the target weights.

Semantics at each site: ``W' = W + scale * B @ A``, computed in float32 and rounded once to the
dtype of W. The base's own tensors are set aside, never written: afterwards they are back, the very
same. Costs a copy of the target weights and saves the products at every token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapterdb.adapted_model import Factors
from adapterdb.layout import DeltaLayout


class Fold:
    """One mixture in copies of a model's weights: put in, taken out again, as often as needed.

    Args:
        factors: for each site ``a (1, R', H1)`` and ``b (1, R', H2)``: one mixture for all rows.
        scale: multiplies every product.
    """

    def __init__(
        self, model: nn.Module, layout: DeltaLayout, factors: Factors, scale: float = 1.0
    ) -> None:
        self._own: list[tuple[nn.Parameter, Tensor]] = []
        self._folded: list[Tensor] = []
        for site, (a, b) in zip(layout.sites, factors, strict=True):
            module = model.get_submodule(site.name)
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            self._own.append((weight, weight.data))
            self._folded.append(folded_weight(module, weight.data, a[0], b[0], scale))

    def put_in(self) -> None:
        """Let the model act with the mixture."""
        for (parameter, _), folded in zip(self._own, self._folded, strict=True):
            parameter.data = folded

    def take_out(self) -> None:
        """Let the model be the base again."""
        for parameter, own in self._own:
            parameter.data = own


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
