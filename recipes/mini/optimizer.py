"""Weights in bfloat16 for the matrix products, float32 masters of them, and what moves those.

Autocast would cast every weight anew in each forward pass, a fifth of a small model's time. Muon
(Jordan et al., 2024; torch's own) moves the matrices of the layers, AdamW all else: over the same
11,000 examples of stage 1 the loss was 0.1 lower than with AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MasterOptimizer:
    """Optimisers over float32 copies of a model's trained weights; the model becomes bfloat16.

    Attributes:
        masters: the copies by name.

    Args:
        model: in float32, with the weights to train on from.
        trained: names of the weights to train; all others get no gradient.
        lr: peak learning rate of AdamW: embeddings, biases, norms.
        matrix_lr: of Muon, its updates scaled to the size of AdamW's.
        more: other parameters, already float32, each with its peak rate under AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Iterable[str],
        lr: float,
        matrix_lr: float,
        more: Sequence[tuple[nn.Parameter, float]] = (),
    ) -> None:
        wanted = set(trained)
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in wanted)
        self.masters = {
            name: parameter.detach().float().clone().requires_grad_()
            for name, parameter in parameters.items()
            if name in wanted
        }
        self._model = model.bfloat16()
        self._pairs = [(parameters[name], master) for name, master in self.masters.items()]
        self._trained = [*self.masters.values(), *(parameter for parameter, _ in more)]

        matrices = [x for name, x in self.masters.items() if x.dim() == 2 and ".layer." in name]
        inside = {id(x) for x in matrices}
        rest = [x for x in self.masters.values() if id(x) not in inside]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": lr}]
        groups += [{"params": [parameter], "lr": rate} for parameter, rate in more]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
            torch.optim.Muon(
                matrices, lr=matrix_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
        ]
        self._peaks = [[g["lr"] for g in o.param_groups] for o in self._optimizers]

    def step(self, factor: float) -> float:
        """Move the weights by the gradients there are; the norm those had.

        Args:
            factor: of the peak learning rates.
        """
        for parameter, master in self._pairs:
            if parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
        norm = nn.utils.clip_grad_norm_(self._trained, 1.0)
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, master in self._pairs:
                parameter.copy_(master)
        return norm.item()

    def weights(self) -> dict[str, Tensor]:
        """The model's state in float32: the masters, and what isn't trained; ties kept."""
        masters = {id(parameter): master.detach() for parameter, master in self._pairs}
        state = self._model.state_dict(keep_vars=True)
        return {name: masters.get(id(x), x.detach().float()) for name, x in state.items()}

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of the optimisers."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from `state_dict`."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)
