"""The shared start every delta of a home is made from, and stepped from when it is used.

For LoRA deltas it is PRAG's ``base_weight``: A random, B zero, the same for all passages, so that
their factors live in one subspace. For gradient deltas it is the meta-init theta* with the learned
step sizes alpha; without a learned one, the base_weight with one fixed alpha. With B = 0 the
gradient of A is exactly zero, so such deltas move only B until a meta-init is trained.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from adapterdb.errors import Mismatch
from adapterdb.layout import DeltaLayout


@dataclass(frozen=True)
class Start:
    """theta and alpha.

    Args:
        theta: ``(P,)`` float32, the row everything starts from.
        alpha: ``(P,)`` float32, step size of each number; used by gradient deltas only.
    """

    theta: Tensor
    alpha: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of both rows; every delta names the start it was made from."""
        digest = hashlib.sha256()
        for row in (self.theta, self.alpha):
            digest.update(row.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def step(self, gradients: Tensor, gamma: float = 1.0) -> Tensor:
        """theta - gamma * alpha * g (ReGrad, arXiv 2606.15734): factor rows for ``(..., P)``."""
        return self.theta - gamma * self.alpha * gradients


def base_weight(layout: DeltaLayout, *, seed: int = 0, alpha: float = 1e-2) -> Start:
    """A fresh start: each A uniform in +-1/sqrt(H1) as peft draws it, each B zero.

    Args:
        layout: of the rows.
        seed: the same seed gives the same row on every machine.
        alpha: the fixed step size of gradient deltas.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = torch.zeros(layout.size)
    for i, site in enumerate(layout.sites):
        bound = 1 / math.sqrt(site.in_features)
        layout.a(theta, i).uniform_(-bound, bound, generator=generator)
    return Start(theta, torch.full((layout.size,), alpha))


def load_meta_init(path: Path) -> tuple[DeltaLayout, Start]:
    """The layout and start in a ``meta_init.safetensors``.

    Raises:
        Mismatch: if its rows don't fit its own layout.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "layout" not in metadata:
            raise Mismatch(f"{path} has no layout in its metadata", code="layout_mismatch")
        layout = DeltaLayout.from_dict(json.loads(metadata["layout"]))
        theta, alpha = file.get_tensor("theta").float(), file.get_tensor("alpha").float()
    if theta.shape != (layout.size,) or alpha.shape != (layout.size,):
        raise Mismatch(
            f"{path}: theta {tuple(theta.shape)}, alpha {tuple(alpha.shape)};"
            f" its layout has {layout.size} numbers",
            code="layout_mismatch",
        )
    return layout, Start(theta, alpha)
