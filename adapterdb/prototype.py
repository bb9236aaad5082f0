"""A delta's prototypes: at each site the input direction it answers to most strongly (Arrow).

The prototype is v, the top right-singular vector of B A (arXiv 2405.11157). It lies in the span of
A's rows, v = A.T @ core, so a delta is known to Arrow's gate by its cores alone: R numbers a site.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adapterdb.layout import DeltaLayout


def cores(layout: DeltaLayout, rows: Tensor) -> Tensor:
    """The cores of factor rows, such that ``A.T @ core`` is the unit vector v; 0 where B A is 0.

    Semantics: v maximises |B A v| over unit vectors; its sign carries no meaning.

    Args:
        layout: of the rows.
        rows: factors ``(n, P)``, any float dtype.

    Returns:
        ``(n, sites, R)`` float32.
    """
    found = []
    for a, b in layout.views(rows):
        gram_a, gram_b = (t.double() @ t.double().mT for t in (a, b))
        # B A = U S V.T; with G = A A.T, A.T G^(-1/2) has orthonormal columns (on G's range)
        values, basis = torch.linalg.eigh(gram_a)
        real = values > values[..., -1:] * 1e-12
        root = (basis * values.clamp(min=0).sqrt()[..., None, :]) @ basis.mT
        inverse = (basis * (real / values.clamp(min=1e-300).sqrt())[..., None, :]) @ basis.mT
        strength, directions = torch.linalg.eigh(root @ gram_b @ root)
        core = (inverse @ directions[..., -1:])[..., 0]
        found.append(torch.where(strength[..., -1:] > 0, core, 0.0))
    return torch.stack(found, dim=1).float()


def to_bytes(core: Tensor) -> bytes:
    """``(sites, R)`` as little-endian float32, as the catalog keeps it."""
    return core.contiguous().cpu().numpy().astype("<f4").tobytes()


def from_bytes(layout: DeltaLayout, data: bytes) -> Tensor:
    """What ``to_bytes`` wrote: ``(sites, R)`` float32."""
    shape = (len(layout.sites), layout.rank)
    return torch.from_numpy(np.frombuffer(data, "<f4").reshape(shape).astype(np.float32))
