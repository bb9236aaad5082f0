"""add_lora against the sum written as loops in float64, over slot popularity and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import add_lora

POPULARITY = {
    "distinct": [[0, 1], [2, 3], [4, 5]],
    "identical": [[2, 2], [2, 2], [2, 2]],
    "with none": [[0, -1], [-1, -1], [5, 1]],
    "skewed": [[0, 1], [0, 4], [0, 1]],
}


def truth(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: Tensor, weights: Tensor, scale: float
) -> Tensor:
    """The module docstring's equation, one product at a time."""
    out = y.double().clone()
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            for k in range(slots.shape[1]):
                s = int(slots[i, k])
                if s < 0:
                    continue
                w = weights[i, k] if weights.dim() == 2 else weights[i, t, k]
                out[i, t] += w * scale * (x[i, t].double() @ a[s].double().T) @ b[s].double()
    return out


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (3, 5, 7), x (3, 5, 6), a (6, 2, 6), b (6, 2, 7)."""
    g = torch.Generator().manual_seed(0)
    shapes = ((3, 5, 7), (3, 5, 6), (6, 2, 6), (6, 2, 7))
    y, x, a, b = (torch.randn(s, generator=g).to(dtype) for s in shapes)
    return y, x, a, b


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("name", POPULARITY)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_add_lora_is_the_weighted_sum(
    name: str, per_token: bool, dtype: torch.dtype, atol: float
) -> None:
    """The result is the weighted sum of products for any choice of slots and weights."""
    y, x, a, b = problem(dtype)
    slots = torch.tensor(POPULARITY[name])
    shape = (3, 5, 2) if per_token else (3, 2)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    got = add_lora(y, x, a, b, slots, weights, scale=0.5)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), truth(y, x, a, b, slots, weights, 0.5), atol=atol, rtol=0
    )


def test_rows_without_slots_are_untouched() -> None:
    """A batch row whose slots are all -1 keeps y bit for bit."""
    y, x, a, b = problem()
    slots = torch.tensor([[-1, -1], [0, 1], [-1, -1]])
    got = add_lora(y, x, a, b, slots)
    assert torch.equal(got[0], y[0])
    assert torch.equal(got[2], y[2])
    assert not torch.equal(got[1], y[1])


def test_aligned_rows_serve_equal_runs() -> None:
    """Without slots, bank row g serves the g-th equal run of the batch."""
    y, x, a, b = problem()
    got = add_lora(y, x, a[:3], b[:3], scale=2.0)
    slots = torch.tensor([[0], [1], [2]])
    torch.testing.assert_close(got, add_lora(y, x, a, b, slots, scale=2.0))


def test_gradients_reach_bank_and_input() -> None:
    """Autograd through the op agrees with finite differences for x, a and b."""
    y, x, a, b = (t.double() for t in problem())
    slots = torch.tensor(POPULARITY["with none"])
    weights = torch.rand(3, 2, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (x, a, b, weights)]
    assert torch.autograd.gradcheck(
        lambda x, a, b, w: add_lora(y, x, a, b, slots, w, 0.5), leaves, fast_mode=True
    )


@pytest.mark.parametrize(
    "change",
    [
        {"slots": torch.zeros(2, 2, dtype=torch.int64)},
        {"slots": torch.zeros(3, 2)},
        {"weights": torch.zeros(3, 3)},
        {"a": torch.zeros(6, 2, 9)},
        {"b": torch.zeros(6, 3, 7)},
        {"impl": "cuda"},
        {"slots": None},
        {"slots": None, "weights": None, "a": torch.zeros(2, 2, 6), "b": torch.zeros(2, 2, 7)},
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object]) -> None:
    """Shapes that don't fit raise InvalidInput instead of broadcasting."""
    y, x, a, b = problem()
    arguments = {
        "y": y, "x": x, "a": a, "b": b,
        "slots": torch.zeros(3, 2, dtype=torch.int64), "weights": torch.ones(3, 2),
    }  # fmt: skip
    with pytest.raises(InvalidInput):
        add_lora(**(arguments | change))  # type: ignore[arg-type]
