"""Several deltas to one of the same rank: the merges of ``answers.MERGES``, on factor rows.

    linear           A = sum_i sign(w_i) sqrt|w_i| A_i,  B = sum_i sqrt|w_i| B_i
    magnitude_prune  the same, of each A_i and B_i only the entries largest in size
    dare_linear      the same, entries dropped at random and the rest made up for it
    ties             pruned by magnitude; then of each entry the mean of those weighted values that
                     have the sign of the entry's sum
    dare_ties        dropped at random; then as ties
    svd              the rank-R factors nearest to sum_i w_i B_i A_i
    orthogonal       the same of sum_i w_i (I - Q_i Q_i^T) B_i A_i, where Q_i spans the columns of
                     B_1 .. B_(i-1): each delta writes only where none before it did

The first five work on entries, as peft's ``add_weighted_adapter`` defines them: of one delta alone
they keep everything. ``svd`` and ``orthogonal`` work on the products B A, in float64 and from the
factors (QR of the stacked A, eigenvectors of a small core); no B A is ever made. ``orthogonal``
(the merge of MergePRAG, in factors) depends on the order: best first. Its sum has rank n R in
general, and the nearest of rank R is a row like any other, to be stored, exported and mixed; what
is cut off are the weakest of all directions, so at a low R much of what later deltas had to say may
go.

Knows no store and no model. Rows act with ``layout.scale`` afterwards, so weights enter bare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from adapterdb.answers import MERGES, Composition, Dials
from adapterdb.errors import InvalidInput
from adapterdb.layout import DeltaLayout, Family

KEPT_BY_TIES, KEPT = 0.2, 0.5  # densities where none is given
_NOTHING = 1e-7  # of the largest singular value: less is rounding


def merge(
    composition: Composition,
    layout: DeltaLayout,
    rows: Tensor,
    weights: Tensor | Sequence[float],
    dials: Dials,
    base: Tensor | None = None,
) -> Tensor:
    """One factor row made of several.

    Args:
        composition: one of ``answers.MERGES``.
        layout: of the rows.
        rows: factors ``(n, P)``, n at least 1, any float dtype, best first.
        weights: n finite numbers of any sign.
        dials: density and seed of those that drop entries.
        base: ``(P,)``, the start of gradient deltas that share one. What is done to entries is then
            done to ``rows - base`` (task vectors), with weights as they are, and ``base`` added
            back: near a start a delta acts in proportion to its step, not to its square. So
            ``linear`` is ReGrad's composition ``gradient``. ``svd`` and ``orthogonal`` ignore it.

    Returns:
        ``(P,)`` float32 on the device of ``rows``.

    Raises:
        InvalidInput: for another composition, no rows, or weights that are not n finite numbers.
    """
    found = torch.as_tensor(weights, dtype=torch.float64, device=rows.device)
    _check(composition, layout, rows, found)
    if composition == "svd":
        return _nearest(layout, _stacks(layout, rows, found))
    if composition == "orthogonal":
        return _nearest(layout, _apart(_stacks(layout, rows, found)))
    vectors = rows.float() if base is None else rows.float() - base
    kept = vectors if len(rows) == 1 else _thinned(composition, layout, vectors, dials)
    gains = _gains(layout, found, split=base is None).float()
    together = _agreeing if composition in ("ties", "dare_ties") and len(rows) > 1 else _sum
    mixed = together(kept, gains)
    return mixed if base is None else base.float() + mixed


def _check(composition: str, layout: DeltaLayout, rows: Tensor, weights: Tensor) -> None:
    if composition not in MERGES:
        raise InvalidInput(f"{composition!r} is not a merge; those are {', '.join(MERGES)}")
    if rows.dim() != 2 or rows.shape[1] != layout.size or not len(rows):
        raise InvalidInput(f"rows are {tuple(rows.shape)}; a merge takes (n, {layout.size}), n > 0")
    if weights.shape != (len(rows),) or not bool(torch.isfinite(weights).all()):
        raise InvalidInput(
            f"weights {weights.tolist()} are not {len(rows)} finite numbers, one for each delta"
        )


# entry by entry


def _gains(layout: DeltaLayout, weights: Tensor, *, split: bool) -> Tensor:
    """What each entry of each row is multiplied by: ``(n, P)``, or ``(n, 1)`` if all are alike.

    Args:
        split: between A and B, whose product then has the weight: sqrt|w| each, the sign with A.
    """
    if not split:
        return weights[:, None]
    roots = weights.abs().sqrt()[:, None]
    if not bool((weights < 0).any()):
        return roots
    of_a = torch.zeros(layout.size, dtype=torch.bool, device=weights.device)
    for i in range(len(layout.sites)):
        layout.a(of_a, i).fill_(True)
    return torch.where(of_a, weights.sign()[:, None] * roots, roots)


def _thinned(composition: str, layout: DeltaLayout, vectors: Tensor, dials: Dials) -> Tensor:
    """``vectors (n, P)`` without the entries that the composition leaves out."""
    density = dials.density or (KEPT_BY_TIES if composition == "ties" else KEPT)
    if composition == "linear" or density >= 1:
        return vectors
    if composition in ("ties", "magnitude_prune"):
        return _largest(layout, vectors, density)
    return torch.stack([_at_random(vector, density, dials.seed) for vector in vectors])


def _largest(layout: DeltaLayout, vectors: Tensor, density: float) -> Tensor:
    """Of each row's every A and B the ``int(density * size)`` entries largest in size, else 0.

    B is gone through as ``(H2, R)``, so that among entries of one size those stay that peft keeps.
    """
    kept = torch.zeros_like(vectors)
    for family in layout.families:
        sides = zip(layout.stacked(vectors, family), layout.stacked(kept, family), strict=True)
        for (whole, out), transposed in zip(sides, (False, True), strict=True):
            flat = (whole.mT if transposed else whole).flatten(-2)
            best = flat.abs().topk(int(density * flat.shape[-1]), sorted=False).indices
            chosen = torch.zeros_like(flat).scatter_(-1, best, flat.gather(-1, best))
            shape = (*whole.shape[:-2], whole.shape[-1], whole.shape[-2])
            out.copy_(chosen.view(shape).mT if transposed else chosen.view(whole.shape))
    return kept


def _at_random(vector: Tensor, density: float, seed: int) -> Tensor:
    """``vector (P,)`` with each entry kept by chance ``density``, and divided by it.

    What is dropped follows from the seed and the vector alone: it is the same whatever else is
    merged, in whatever order, and on every device.
    """
    own = int(vector.contiguous().view(torch.int32).sum(dtype=torch.int64))
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + own) % 2**63)
    kept = torch.rand(len(vector), generator=generator) < density
    return torch.where(kept.to(vector.device), vector / density, 0.0)


def _sum(vectors: Tensor, gains: Tensor) -> Tensor:
    return (gains * vectors).sum(0)


def _agreeing(vectors: Tensor, gains: Tensor) -> Tensor:
    """Of each entry the mean of the weighted values with the sign of the plain sum."""
    elected = torch.where(vectors.sum(0) >= 0, 1.0, -1.0)
    agree = vectors.sign() == elected
    return (gains * vectors * agree).sum(0) / agree.sum(0).clamp(min=1)


# products of factors


def _stacks(
    layout: DeltaLayout, rows: Tensor, weights: Tensor
) -> Iterator[tuple[Family, Tensor, Tensor]]:
    """For each family the factors of all sites: ``a``, times weight, and ``b``, float64.

    ``a (sites, n, R, H1)`` and ``b (sites, n, R, H2)``, B transposed.
    """
    for family in layout.families:
        a, b = (
            stack.permute(1, 2, 0, 3, 4).flatten(0, 1).double()
            for stack in layout.stacked(rows, family)
        )
        yield family, a * weights[:, None, None], b


def _apart(
    stacks: Iterator[tuple[Family, Tensor, Tensor]],
) -> Iterator[tuple[Family, Tensor, Tensor]]:
    """Stacks in which the columns of each B are orthogonal to those of all earlier ones."""
    for family, a, b in stacks:
        own = [b[:, 0]]
        spanned = _basis(b[:, 0], b[:, 0])
        for i in range(1, b.shape[1]):
            rest = b[:, i]
            for _ in range(2):  # once more takes away what rounding left
                rest = rest - (rest @ spanned.mT) @ spanned
            own.append(rest)
            spanned = torch.cat([spanned, _basis(rest, b[:, i])], dim=1)
        yield family, a, torch.stack(own, dim=1)


def _basis(rows: Tensor, whole: Tensor) -> Tensor:
    """Orthonormal rows that span ``rows (sites, R, H)``; 0 in place of those it has no need of.

    What is small beside ``whole``, from which ``rows`` were left, is rounding and spans nothing.
    """
    directions: Tensor
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    largest = torch.linalg.matrix_norm(whole, ord=2)[:, None]
    needed: Tensor = sizes > _NOTHING * largest
    return directions * needed[..., None]


def _nearest(layout: DeltaLayout, stacks: Iterator[tuple[Family, Tensor, Tensor]]) -> Tensor:
    """The row whose every B A is nearest to the sum over n of a stack's B A.

    Semantics, at a site: ``u, s, v = svd(sum_i b[i].T @ a[i])``, cut off after R, with the square
    root of s in both factors. The sum is left^T q^T with orthonormal columns in q, so v comes of
    the small left left^T: squared sizes in float64 are as exact as a float32 row can tell.
    """
    row: Tensor | None = None
    for family, a, b in stacks:
        q, r = torch.linalg.qr(a.flatten(1, 2).mT)
        left = r @ b.flatten(1, 2)  # sum_i B_i A_i = left^T q^T
        squares, v = torch.linalg.eigh(left @ left.mT)
        most = min(layout.rank, v.shape[-1])
        sizes, v = squares[:, -most:].clamp(min=0).sqrt().flip(-1), v[..., -most:].flip(-1)
        real = sizes > _NOTHING * sizes[:, :1]
        roots = sizes.sqrt() * real
        inverse = torch.where(real, sizes, 1.0).rsqrt() * real
        if row is None:
            row = torch.zeros(layout.size, device=a.device)
        factors = ((q @ v).mT * roots[..., None], v.mT @ left * inverse[..., None])
        for out, factor in zip(layout.stacked(row, family), factors, strict=True):
            out[..., :most, :] = factor.view(*out.shape[:-2], most, -1).float()
    assert row is not None  # a layout has sites
    return row
