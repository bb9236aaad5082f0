"""The recipe's attention: kernel and plain torch give the same numbers, forwards and backwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_making import module
from torch import Tensor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def attention() -> Any:
    """The module."""
    return module("attention")


def reference(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The definition, sequence by sequence and head by head."""
    units = q.shape[-1] // heads
    out = torch.zeros_like(q)
    for n in range(len(q)):
        for head in range(heads):
            own = slice(head * units, (head + 1) * units)
            for t in range(q.shape[1]):
                scores = k[n, : t + 1, own] @ q[n, t, own] / math.sqrt(units)
                out[n, t, own] = scores.softmax(0) @ v[n, : t + 1, own]
    return out


def drawn(n: int, t: int, heads: int) -> list[Tensor]:
    """Queries, keys, values and an outer gradient, bfloat16, of heads of 32 units."""
    torch.manual_seed(t)
    return [2 * torch.randn(n, t, heads * 32).bfloat16() for _ in range(4)]


def compared(attention: Any, n: int, t: int, heads: int, twice: bool) -> list[float]:
    """Relative errors of the output and of the gradients of q, k and v, against float64."""
    *leaves, outer = drawn(n, t, heads)
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    found = attention.causal_attention(*ours, heads, twice=twice)
    wanted = reference(*exact, heads)
    found.backward(outer)
    wanted.backward(outer.double())
    pairs = [(found, wanted)] + [(a.grad, b.grad) for a, b in zip(ours, exact, strict=True)]
    # one key gives a gradient of exactly zero for q and k
    return [((a.double() - b).norm() / b.norm().clamp(min=1e-2)).item() for a, b in pairs]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 70])
def test_kernel_equals_the_definition(attention, length):
    """Whole and part tiles, odd and even numbers of them, several heads and sequences."""
    if attention.kernel() is None:
        pytest.skip("this CPU has no tiles, or there is no C compiler")
    assert max(compared(attention, 2, length, 3, twice=False)) < 6e-3  # bfloat16 has 8 bits


def test_torch_equals_the_definition(attention):
    """What is used where the kernel can't be."""
    assert max(compared(attention, 2, 17, 2, twice=True)) < 2e-2


def test_torch_can_be_differentiated_twice(attention):
    """The way through attention that a second derivative takes is plain torch."""
    q, k, v = (torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    attend = attention.causal_attention
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, 2, twice=True), (q, k, v))


def test_kernel_refuses_a_second_derivative(attention):
    """Where `twice` was forgotten there is an error, not a silently missing term."""
    if attention.kernel() is None:
        pytest.skip("this CPU has no tiles, or there is no C compiler")
    q, k, v, _ = (x.requires_grad_() for x in drawn(1, 9, 2))
    found = attention.causal_attention(q, k, v, 2).float().square().sum()
    (first,) = torch.autograd.grad(found, q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.float().square().sum().backward()
