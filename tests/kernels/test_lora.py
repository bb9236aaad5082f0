"""What add_lora promises of its arguments; the numbers are test_strategies' business."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import add_lora


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (3, 5, 7), x (3, 5, 6), a (6, 2, 6), b (6, 2, 7)."""
    g = torch.Generator().manual_seed(0)
    shapes = ((3, 5, 7), (3, 5, 6), (6, 2, 6), (6, 2, 7))
    y, x, a, b = (torch.randn(s, generator=g).to(dtype) for s in shapes)
    return y, x, a, b


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


@pytest.mark.parametrize("wrong", ["weights", "width", "rank"])
def test_the_shortest_way_refuses_what_the_others_refuse(wrong: str) -> None:
    """In place, on a CPU, without gradients nothing wrong slips by."""
    y, x = torch.zeros(2, 1, 6), torch.ones(2, 1, 4)
    a, b = torch.ones(2, 3, 5 if wrong == "width" else 4), torch.ones(2, 3, 6)
    if wrong == "rank":
        b = torch.ones(2, 2, 6)
    given = torch.ones(2, 1) if wrong == "weights" else None
    with torch.inference_mode(), pytest.raises(InvalidInput):
        add_lora(y, x, a, b, weights=given, inplace=True)
    with torch.inference_mode():
        out = add_lora(y, x, torch.ones(2, 3, 4), torch.ones(2, 3, 6), scale=0.5, inplace=True)
    assert torch.equal(out, torch.full((2, 1, 6), 6.0))
