"""The Triton kernels against float64: interpreted on a CPU, and on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.kernels import TokenGate, add_gated, add_lora, fused
from adapterdb.kernels.products import Products

triton_lora = pytest.importorskip("adapterdb.kernels.triton_lora", reason="needs Triton")

POPULARITY = {
    "distinct": [[0, 1], [2, 3], [4, 5]],
    "identical": [[2, 4], [2, 4], [2, 4]],
    "with none": [[0, -1], [-1, -1], [5, 1]],
    "skewed": [[0, 1], [4, 0], [0, 1]],
}
# beyond plain torch's own error, of the largest number: the interpreter cuts bfloat16 off when it
# stores, where a GPU rounds
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
FEW, MANY = 1, 11  # tokens of a batch row: sums of products, or dots
S, R = 6, 3


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the kernels run."""
    if (request.param == "cpu") != triton_lora.INTERPRETING:
        pytest.skip("Triton's interpreter is " + ("off" if request.param == "cpu" else "on"))
    return str(request.param)


class Problem:
    """Random arguments of ``add_lora``."""

    def __init__(
        self, device: str, tokens: int, dtype: torch.dtype = torch.float32, h1: int = 37,
        h2: int = 50, rank: int = R, batch: int = 3,
    ) -> None:  # fmt: skip
        draw = torch.Generator().manual_seed(tokens)
        shapes = {
            "y": (batch, tokens, h2), "x": (batch, tokens, h1),
            "a": (S, rank, h1), "b": (S, rank, h2),
        }  # fmt: skip
        self.given: dict[str, Any] = {
            name: torch.randn(shape, generator=draw).to(device, dtype)
            for name, shape in shapes.items()
        }
        self.given["scale"] = 0.5

    def slots(self, rows: list[list[int]], per_token: bool = False) -> Problem:
        """With these slots, and weights of them."""
        x = self.given["x"]
        shape = (len(rows), x.shape[1], len(rows[0])) if per_token else (len(rows), len(rows[0]))
        draw = torch.Generator().manual_seed(7)
        self.given["slots"] = torch.tensor(rows, device=x.device)
        self.given["weights"] = (torch.rand(shape, generator=draw) - 0.3).to(x.device)
        return self

    def run(self, impl: Any, **change: Any) -> Tensor:
        """By one implementation."""
        return add_lora(**(self.given | change), impl=impl)

    def exact(self) -> dict[str, Any]:
        """The same numbers in float64."""
        wide = {
            k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in self.given.items()
        }
        for name in "ab":
            scale = wide.pop(f"{name}_scale", None)
            if scale is not None:
                wide[name] = wide[name].double() * scale[..., None]
        return wide


def assert_as_good_as_torch(got: Tensor, plain: Tensor, truth: Tensor) -> None:
    """No further from the truth than plain torch in that dtype, but for a tolerance."""
    assert got.dtype == plain.dtype
    error, allowed = ((t.double() - truth).abs().max() for t in (got, plain))
    allowed = allowed + TOLERANCE[got.dtype] * truth.abs().max()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def assert_holds(problem: Problem) -> None:
    """Triton is as good as the reference at this problem."""
    truth = add_lora(**problem.exact(), impl="reference")
    assert_as_good_as_torch(problem.run("triton"), problem.run("reference"), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize(("name", "per_token"), [("skewed", False), ("with none", True)])
def test_is_the_weighted_sum(
    device: str, name: str, per_token: bool, tokens: int, dtype: torch.dtype
) -> None:
    """Few and many tokens, weights of rows and of tokens, ragged shapes, missing deltas."""
    assert_holds(Problem(device, tokens, dtype).slots(POPULARITY[name], per_token))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 8, 9, 40])
@pytest.mark.parametrize("sizes", [(16, 64, 1), (600, 130, 8), (130, 600, 20)])
def test_is_the_weighted_sum_everywhere(
    device: str, sizes: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> None:
    """Every popularity at aligned and ragged shapes, on either side of each choice of kernel."""
    h1, h2, rank = sizes
    for rows, per_token in zip(POPULARITY.values(), (False, True, False, True), strict=True):
        problem = Problem(device, tokens, dtype, h1, h2, rank)
        assert_holds(problem.slots(rows, per_token))


def test_one_launch_and_two_agree(device: str) -> None:
    """Fused, and shrink in several planes with expand after it, over several blocks of rows."""
    problem = Problem(device, 2, h1=1100, h2=70, rank=40).slots(POPULARITY["with none"], True)
    truth, plain = add_lora(**problem.exact(), impl="reference"), problem.run("reference")
    for one_launch in (True, False):
        got = fused.add(Products(**problem.given), one_launch)
        assert_as_good_as_torch(got, plain, truth)


def test_many_rows_take_several_blocks(device: str) -> None:
    """More bank rows than fit a block, by dots."""
    assert_holds(Problem(device, MANY, rank=40).slots(POPULARITY["skewed"]))


def test_rows_without_slots_are_untouched(device: str) -> None:
    """A batch row whose slots are all -1 keeps y bit for bit."""
    for tokens in (FEW, MANY):
        problem = Problem(device, tokens).slots([[-1, -1], [0, 1], [-1, -1]])
        got, y = problem.run("triton"), problem.given["y"]
        assert torch.equal(got[::2], y[::2])
        assert not torch.equal(got[1], y[1])


def test_aligned_rows_serve_equal_runs(device: str) -> None:
    """Without slots, bank row g serves the g-th run, out of a larger buffer and into one."""
    for tokens in (FEW, MANY):
        problem = Problem(device, tokens, batch=6)
        wide = problem.given["a"].repeat(1, 2, 1)
        problem.given |= {"a": wide[1:4, 1 : R + 1], "b": problem.given["b"][:3]}
        assert_holds(problem)


def test_mixed_ranks_share_a_bank(device: str) -> None:
    """What stands beyond an entry's rank is ignored, even if it is not a number."""
    ranks = torch.tensor([1, 3, 0, 2, 3, 1], device=device)
    for tokens in (FEW, MANY):
        problem = Problem(device, tokens).slots(POPULARITY["skewed"])
        problem.given["ranks"] = ranks
        beyond = torch.arange(R, device=device) >= ranks[:, None]
        for name in "ab":
            problem.given[name][beyond] = torch.nan
        truth = problem.exact()
        got, plain = problem.run("triton"), problem.run("reference")
        assert_as_good_as_torch(got, plain, add_lora(**truth, impl="reference"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_rows_are_dequantised_inside(device: str, dtype: torch.dtype) -> None:
    """Banks of int8 with a scale for each row are as good as their float64 product."""
    for tokens in (FEW, MANY):
        problem = Problem(device, tokens, dtype).slots(POPULARITY["with none"])
        for name in "ab":
            bank = problem.given[name].float()
            scale = bank.abs().amax(-1) / 127
            problem.given[name] = (bank / scale[..., None]).round().to(torch.int8)
            problem.given[f"{name}_scale"] = scale
        assert_holds(problem)


def test_equal_input_gives_equal_bits(device: str) -> None:
    """No sum depends on the order in which programs run."""
    problem = Problem(device, MANY).slots(POPULARITY["skewed"])
    assert torch.equal(problem.run("triton"), problem.run("triton"))


def test_writes_over_y_only_when_asked(device: str) -> None:
    """``inplace`` returns y's own memory, and y is left alone otherwise."""
    problem = Problem(device, FEW).slots(POPULARITY["skewed"])
    y = problem.given["y"].clone()
    new = problem.run("triton")
    assert torch.equal(problem.given["y"], y)
    same = problem.run("triton", inplace=True)
    assert same.data_ptr() == problem.given["y"].data_ptr()
    assert torch.equal(same, new)


def gradients(problem: Problem, arguments: dict[str, Any], impl: Any) -> list[Tensor]:
    """Of a random weighting of the result, by y, x, a, b and weights, where they are floats."""
    given = problem.given
    names = [n for n in ("y", "x", "a", "b", "weights") if n in given]
    names = [n for n in names if given[n].is_floating_point()]
    leaves = {n: arguments[n].clone().requires_grad_() for n in names}
    out = add_lora(**(arguments | leaves), impl=impl)
    draw = torch.Generator().manual_seed(3)
    weighting = torch.randn(out.shape, generator=draw).to(out.device, given["y"].dtype)
    return list(torch.autograd.grad(out, list(leaves.values()), weighting.to(out.dtype)))


def assert_gradients_hold(problem: Problem) -> None:
    """Every gradient is as good as the reference's."""
    found = (
        gradients(problem, problem.given, "triton"),
        gradients(problem, problem.given, "reference"),
        gradients(problem, problem.exact(), "reference"),
    )
    for got, plain, truth in zip(*found, strict=True):
        assert_as_good_as_torch(got, plain, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "per_token"), [(2, False), (MANY, True)])
def test_gradients_reach_every_argument(
    device: str, tokens: int, per_token: bool, dtype: torch.dtype
) -> None:
    """By y, x, a, b and weights, with deltas that several rows share and one that none uses."""
    assert_gradients_hold(Problem(device, tokens, dtype).slots(POPULARITY["skewed"], per_token))


def test_gradients_of_aligned_rows(device: str) -> None:
    """What training a bank of deltas asks for: no slots, several batch rows for each entry."""
    problem = Problem(device, 4, batch=6)
    problem.given |= {n: problem.given[n][:3] for n in "ab"}
    assert_gradients_hold(problem)


def test_gradients_with_mixed_ranks_and_int8(device: str) -> None:
    """Rows beyond the rank get gradient 0; x learns through an int8 bank."""
    problem = Problem(device, MANY).slots(POPULARITY["skewed"])
    problem.given["ranks"] = torch.tensor([1, 3, 0, 2, 3, 1], device=device)
    assert_gradients_hold(problem)
    problem.given["a"] = (problem.given["a"] * 30).to(torch.int8)
    problem.given["a_scale"] = torch.full((S, R), 1 / 30, device=device)
    assert_gradients_hold(problem)


def test_rows_beyond_the_rank_learn_nothing_from_h(device: str) -> None:
    """Whatever a gate makes of all numbers of h, those of rows that don't count pass nothing on."""
    given = Problem(device, MANY).slots(POPULARITY["skewed"]).given
    ranks = torch.tensor([1, 3, 0, 2, 3, 1], device=device)
    a = given["a"].requires_grad_()
    h = fused.shrink(given["x"], a, fused.Bank(given["slots"], 2, ranks))
    (grad,) = torch.autograd.grad(h.sum(), a)
    beyond = torch.arange(R, device=device) >= ranks[:, None]
    assert (grad[beyond] == 0).all()
    assert (grad[:2][~beyond[:2]] != 0).all()  # entries that the slots name


@pytest.mark.parametrize("tokens", [2, MANY])
def test_gradients_have_gradients(device: str, tokens: int) -> None:
    """Learning through a step of learning asks for the gradient of a gradient."""
    found = []
    for impl in ("triton", "reference"):
        given = Problem(device, tokens).slots(POPULARITY["skewed"], True).given
        leaves = [given[n].requires_grad_() for n in ("x", "a", "b", "weights")]
        out = add_lora(**given, impl=impl)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for got, plain in zip(*found, strict=True):
        torch.testing.assert_close(got, plain, atol=1e-4 * float(plain.abs().max()), rtol=0)


@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize("learned", [False, True])
def test_gated_products_equal_the_reference(device: str, learned: bool, tokens: int) -> None:
    """Arrow and learned gates weigh each token as plain torch does, and learn as well."""
    draw = torch.Generator().manual_seed(5)
    rows, k = 2, 4

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device)

    y, vectors = some(rows, tokens, 50), some(rows, k, 37)
    leaves = some(rows, tokens, 37), some(rows, k * R, 37), some(rows, k * R, 50)
    cores = some(rows, k, R)
    found = []
    for impl in ("triton", "reference"):
        x, a, b, gates = (t.clone().requires_grad_() for t in (*leaves, vectors))
        gate = TokenGate(
            live=torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]], device=device).bool(),
            fixed=torch.tensor([False, False], device=device),
            top_k=torch.tensor([2, 3], device=device),
            temperature=torch.tensor([1.0, 2.0], device=device),
            cores=None if learned else cores,
            vectors=gates if learned else None,
        )
        gated = add_gated(y, x, a, b, gate, 0.5, impl)  # type: ignore[arg-type]
        wanted = (x, a, b, gates) if learned else (x, a, b)
        found.append((*gated, *torch.autograd.grad(gated.y.square().sum(), wanted)))
    for got, plain in zip(*found, strict=True):
        torch.testing.assert_close(
            got, plain, atol=2e-4 * float(plain.detach().abs().max()), rtol=0
        )


def test_says_why_it_cannot_run(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit choice that can't run is refused with the reason; auto goes another way."""
    problem = Problem(device, FEW, torch.float64).slots(POPULARITY["skewed"])
    with pytest.raises(InvalidInput, match="float64"):
        problem.run("triton")
    assert problem.run("auto").dtype == torch.float64
    monkeypatch.setattr(triton_lora, "INTERPRETING", not triton_lora.INTERPRETING)
    problem = Problem(device, FEW).slots(POPULARITY["skewed"])
    with pytest.raises(InvalidInput, match="TRITON_INTERPRET"):
        problem.run("triton")
    assert torch.equal(problem.run("auto"), problem.run("auto"))


def test_nothing_to_add(device: str) -> None:
    """No tokens or no slots: y, as a new tensor."""
    for problem in (Problem(device, 0), Problem(device, 3)):
        problem.given["slots"] = torch.empty(3, 0, dtype=torch.int64, device=device)
        assert torch.equal(problem.run("triton"), problem.given["y"])
