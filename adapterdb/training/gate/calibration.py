"""How Arrow's logits are brought beside learned ones, for deltas a gate has never seen.

Over some training tokens, at every site, the learned deltas are given both kinds of logits. The
scale makes the spread of Arrow's among the deltas of a token (root of the mean variance) that of
the learned ones, the offset then makes the means the same. Nothing but the two numbers is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.kernels import TokenGate
from adapterdb.layout import DeltaLayout
from adapterdb.prototype import cores
from adapterdb.training.gate.bank import site_slices
from adapterdb.training.gate.objective import RoutedSequence, factors_of, route


@torch.no_grad()
def arrow_scales(
    adapted: AdaptedModel,
    rows: Tensor,
    vectors: Tensor,
    top_k: int,
    temperature: float,
    sequences: Sequence[RoutedSequence],
    *,
    at_once: int = 8,
) -> Tensor:
    """Scale and offset of Arrow's logits at each site, ``(sites, 2)`` float32 on the CPU.

    Args:
        rows: factors ``(N, P)`` of the learned deltas.
        vectors: ``(N, G)``, the trained gate, by which the tokens are routed meanwhile.
        sequences: to measure on.
    """
    layout, n = adapted.layout, len(rows)
    gates = _twice(layout, vectors, cores(layout, rows).to(rows.device), top_k, temperature)
    factors = factors_of(layout, torch.cat([rows, rows]))
    sums = torch.zeros(len(layout.sites), 2, 2, dtype=torch.float64)
    count = 0

    def note(site: int, logits: Tensor) -> None:
        both = logits.double().cpu().view(len(logits), 2, n)  # learned, arrow
        centred = both - both.mean(-1, keepdim=True) if n > 1 else both - both.mean(0)
        sums[site, 0] += both.mean(-1).sum(0)
        sums[site, 1] += centred.square().mean(-1).sum(0)

    for first in range(0, len(sequences), at_once):
        part = sequences[first : first + at_once]
        count += route(adapted, factors, gates, part, note=note)[0].sent
    mean, spread = sums[:, 0] / count, (sums[:, 1] / count).sqrt()
    scale = torch.where(spread[:, 1] > 0, spread[:, 0] / spread[:, 1].clamp(min=1e-300), 0.0)
    return torch.stack([scale, mean[:, 0] - scale * mean[:, 1]], dim=-1).float()


def _twice(
    layout: DeltaLayout, vectors: Tensor, own: Tensor, top_k: int, temperature: float
) -> list[TokenGate]:
    """Gates over each delta twice: learned and live, and by Arrow and never chosen."""
    n, device = len(vectors), vectors.device
    learned = torch.arange(2 * n, device=device)[None] < n
    return [
        TokenGate(
            live=learned,
            fixed=torch.zeros(1, dtype=torch.bool, device=device),
            top_k=torch.tensor([top_k], device=device),
            temperature=torch.tensor([temperature], device=device),
            cores=torch.cat([own[:, site], own[:, site]])[None],
            vectors=torch.cat([vectors[:, part], torch.zeros_like(vectors[:, part])])[None],
            learned=learned,
        )
        for site, part in enumerate(site_slices(layout))
    ]
