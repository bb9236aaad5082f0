"""Problems for ``add_lora`` and their answers, written as loops in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapterdb.kernels import Impl, add_lora, quantize

POPULARITY = ("distinct", "uniform", "zipf", "identical", "with none")
# B, T, H1, H2, S, R, K: even and ragged widths, one token and several, few and many rank rows
SHAPES = {
    "decode": (4, 1, 64, 128, 9, 2, 3),
    "ragged": (3, 5, 37, 71, 6, 3, 2),
    "narrow": (2, 2, 7, 5, 4, 1, 1),
    "many rank rows": (2, 1, 40, 24, 5, 30, 4),
}


@dataclass(frozen=True)
class Problem:
    """Arguments of ``add_lora``."""

    y: Tensor
    x: Tensor
    a: Tensor
    b: Tensor
    slots: Tensor | None
    weights: Tensor | None = None
    scale: float = 0.5
    ranks: Tensor | None = None
    a_scale: Tensor | None = None
    b_scale: Tensor | None = None

    def solve(self, impl: Impl, *, inplace: bool = False) -> Tensor:
        """What ``add_lora`` gives; ``inplace`` on a copy of y."""
        y = self.y.clone() if inplace else self.y
        return add_lora(
            y, self.x, self.a, self.b, self.slots, self.weights, self.scale, impl,
            ranks=self.ranks, a_scale=self.a_scale, b_scale=self.b_scale, inplace=inplace,
        )  # fmt: skip

    def truth(self) -> Tensor:
        """The sum, one token and one delta after the other, float64."""
        return self._sum(torch.float64)

    def plain_error(self) -> float:
        """The largest error of the same loops in the dtype of y."""
        return float((self._sum(self.y.dtype).double() - self.truth()).abs().max())

    def _sum(self, dtype: torch.dtype) -> Tensor:
        a, b = self.a.to(dtype), self.b.to(dtype)
        if self.a_scale is not None and self.b_scale is not None:
            a, b = a * self.a_scale[..., None].to(dtype), b * self.b_scale[..., None].to(dtype)
        batch, tokens = self.x.shape[:2]
        slots = self.slots
        if slots is None:
            slots = torch.arange(len(a)).repeat_interleave(batch // len(a))[:, None]
        out = self.y.to(dtype, copy=True)
        for i in range(batch):
            for t in range(tokens):
                for k, s in enumerate(slots[i].tolist()):
                    if s < 0:
                        continue
                    rank = a.shape[1] if self.ranks is None else int(self.ranks[s])
                    weight = 1.0
                    if self.weights is not None:
                        at = (i, k) if self.weights.dim() == 2 else (i, t, k)
                        weight = float(self.weights[at])
                    h = self.x[i, t].to(dtype) @ a[s, :rank].T
                    out[i, t] += weight * self.scale * (h @ b[s, :rank])
        return out


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(
    shape: str,
    popularity: str = "uniform",
    dtype: torch.dtype = torch.float32,
    *,
    per_token: bool = False,
) -> Problem:
    """A problem with slots and weights."""
    batch, tokens, wide, out, entries, rank, k = SHAPES[shape]
    x, y = numbers(batch, tokens, wide, seed=1), numbers(batch, tokens, out, seed=2)
    a, b = numbers(entries, rank, wide, seed=3) / wide**0.5, numbers(entries, rank, out, seed=4)
    weights = numbers(*((batch, tokens, k) if per_token else (batch, k)), seed=5)
    slots = draw(popularity, batch, k, entries)
    return Problem(*(t.to(dtype) for t in (y, x, a, b)), slots, weights)


def draw(popularity: str, batch: int, k: int, entries: int) -> Tensor:
    """Slots ``(B, K)``; in "with none" a third of them, and all of the first row, are -1."""
    generator = torch.Generator().manual_seed(6)
    if popularity == "identical":
        return torch.full((batch, k), entries - 1)
    if popularity == "distinct":
        return torch.arange(batch * k).view(batch, k) % entries
    chances = torch.ones(entries)
    if popularity == "zipf":
        chances = 1 / torch.arange(1, entries + 1)
    slots = torch.multinomial(chances, batch * k, replacement=True, generator=generator)
    slots = slots.view(batch, k)
    if popularity == "with none":
        slots = slots.masked_fill(torch.rand(slots.shape, generator=generator) < 1 / 3, -1)
        slots[0] = -1
    return slots


def mixed_ranks(problem: Problem) -> Problem:
    """Deltas of rank 0 to R in one bank, with NaN in the rows that are not theirs."""
    entries, rank, _ = problem.a.shape
    ranks = torch.arange(entries) % (rank + 1)
    dead = (torch.arange(rank) >= ranks[:, None])[..., None]
    a, b = (t.masked_fill(dead, float("nan")) for t in (problem.a, problem.b))
    return replace(problem, a=a, b=b, ranks=ranks)


def of_int8(problem: Problem) -> Problem:
    """The bank quantised."""
    a, b = quantize(problem.a), quantize(problem.b)
    return replace(problem, a=a.numbers, b=b.numbers, a_scale=a.scale, b_scale=b.scale)


def assert_close_to_truth(problem: Problem, got: Tensor) -> None:
    """The largest error is that of plain torch in the same dtype, to a factor of 2 and 2 roundings.

    Another order of the same sum moves its largest error about by so much.
    """
    assert got.dtype == problem.y.dtype
    truth = problem.truth()
    one = torch.finfo(got.dtype).eps * float(truth.abs().max())
    error = float((got.double() - truth).abs().max())
    assert error <= 2 * problem.plain_error() + 2 * one
