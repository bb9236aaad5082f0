"""Every implementation of add_lora that runs on a CPU, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_making import (
    POPULARITY,
    SHAPES,
    assert_close_to_truth,
    make,
    mixed_ranks,
    numbers,
    of_int8,
)

from adapterdb.errors import InvalidInput
from adapterdb.kernels import Impl, native

DTYPES = (torch.float32, torch.bfloat16)
needs_c = pytest.mark.skipif(native.library() is None, reason="the C kernel is not built")
EVERY = ("reference", "loop", "gathered", pytest.param("native", marks=needs_c), "auto")


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("popularity", POPULARITY)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_strategy_gives_the_weighted_sum(
    shape: str, popularity: str, dtype: torch.dtype, impl: Impl
) -> None:
    """However often a delta is asked for, and whatever the widths, the sum is the same."""
    for per_token in (False, True):
        problem = make(shape, popularity, dtype, per_token=per_token)
        assert_close_to_truth(problem, problem.solve(impl))
        if per_token:  # beyond a gate's top k weights are exactly 0
            assert problem.weights is not None
            some = problem.weights * (problem.weights > 0)
            assert_close_to_truth(
                replace(problem, weights=some), replace(problem, weights=some).solve(impl)
            )


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_mix_in_one_batch(shape: str, dtype: torch.dtype, impl: Impl) -> None:
    """Rank rows beyond a delta's own are ignored, even if they hold NaN, as are rows of no slot."""
    problem = mixed_ranks(make(shape, "with none", dtype, per_token=True))
    assert_close_to_truth(problem, problem.solve(impl))
    entries = len(problem.a)
    aligned = replace(
        problem, slots=None, weights=None,
        x=numbers(entries, 2, problem.x.shape[2]).to(dtype),
        y=numbers(entries, 2, problem.y.shape[2]).to(dtype),
    )  # fmt: skip
    assert_close_to_truth(aligned, aligned.solve(impl))


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_rows_are_dequantised_inside(shape: str, dtype: torch.dtype, impl: Impl) -> None:
    """A bank of int8 and its scales acts as the numbers they stand for, with mixed ranks too."""
    problem = of_int8(make(shape, "with none", dtype))
    assert_close_to_truth(problem, problem.solve(impl))
    ranks = torch.arange(len(problem.a)) % (problem.a.shape[1] + 1)
    problem = replace(problem, ranks=ranks)
    assert_close_to_truth(problem, problem.solve(impl))


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_aligned_rows_may_be_views_of_a_wider_row(dtype: torch.dtype, impl: Impl) -> None:
    """A and B are views into delta rows, one bank row for every run of batch rows."""
    rows = numbers(3, 2 * (37 + 71)).to(dtype)
    a, b = rows[:, : 2 * 37].view(3, 2, 37), rows[:, 2 * 37 :].view(3, 2, 71)
    problem = make("ragged", dtype=dtype)
    x, y = numbers(6, 2, 37).to(dtype), numbers(6, 2, 71).to(dtype)
    problem = replace(problem, x=x, y=y, a=a, b=b, slots=None, weights=None)
    assert_close_to_truth(problem, problem.solve(impl))


@pytest.mark.parametrize("impl", EVERY)
def test_y_is_written_only_when_that_was_allowed(impl: Impl) -> None:
    """Without ``inplace`` y stays; with it the result is the same, and no gradient is lost."""
    problem = make("decode")
    before = problem.y.clone()
    got = problem.solve(impl)
    assert torch.equal(problem.y, before)
    assert torch.equal(problem.solve(impl, inplace=True), got)
    if impl != "native":
        leaf = problem.a.clone().requires_grad_()
        replace(problem, a=leaf).solve(impl, inplace=True).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("impl", ["reference", "loop", "gathered", "auto"])
def test_gradients_reach_bank_input_and_weights(impl: Impl) -> None:
    """Autograd agrees with finite differences, also at a weight of 0."""
    problem = make("narrow", "with none", torch.float64, per_token=True)
    assert problem.weights is not None
    weights = problem.weights.double() * (problem.weights > 0)
    leaves = [t.clone().requires_grad_() for t in (problem.x, problem.a, problem.b, weights)]

    def run(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return replace(problem, x=x, a=a, b=b, weights=w).solve(impl)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_the_reference_is_differentiable_twice() -> None:
    """Meta-training differentiates through a gradient: aligned form, y and factors."""
    problem = replace(make("narrow", dtype=torch.float64), slots=None, weights=None)
    parts = (problem.y, problem.x, problem.a[:2], problem.b[:2])
    leaves = [t.clone().requires_grad_() for t in parts]

    def run(*parts: torch.Tensor) -> torch.Tensor:
        y, x, a, b = parts
        return replace(problem, y=y, x=x, a=a, b=b).solve("reference").square()

    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": torch.zeros(3, dtype=torch.int64)},
        {"ranks": torch.zeros(9)},
        {"a_scale": torch.ones(9)},
        {"a": torch.zeros(9, 2, 64, dtype=torch.int8)},
        {"b": torch.zeros(9, 2, 128, dtype=torch.int8)},
    ],
)
def test_wrong_ranks_and_scales_are_named(change: dict[str, torch.Tensor]) -> None:
    """Ranks and scales that don't belong to the bank raise InvalidInput."""
    with pytest.raises(InvalidInput):
        replace(make("decode"), **change).solve("auto")  # type: ignore[arg-type]
