"""Gates that weigh deltas token by token, against loops written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_making import numbers

from adapterdb.errors import InvalidInput
from adapterdb.kernels import Impl, TokenGate, add_gated, gate_weights, native

S, T, K, R, H1, H2 = 3, 5, 4, 2, 8, 6


needs_c = pytest.mark.skipif(native.library() is None, reason="the C kernel is not built")
EVERY = ("reference", "loop", "gathered", pytest.param("native", marks=needs_c), "auto")


def by_hand(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, gate: TokenGate
) -> torch.Tensor:
    """One token and one delta after the other."""
    out = y.clone()
    for s in range(S):
        for t in range(T):
            logits = {}
            for k in range(K):
                if not gate.live[s, k]:
                    continue
                h = a[s, k * R : (k + 1) * R] @ x[s, t]
                if gate.learned is not None and gate.learned[s, k]:
                    assert gate.vectors is not None
                    logits[k] = float(gate.vectors[s, k] @ x[s, t])
                else:
                    assert gate.cores is not None
                    logits[k] = float((h @ gate.cores[s, k]).abs())
                    if gate.offset is not None:
                        logits[k] += float(gate.offset[s, k])
            best = sorted(logits, key=lambda k: -logits[k])[: int(gate.top_k[s])]
            weights = torch.tensor([logits[k] for k in best]) / gate.temperature[s]
            chosen = dict(zip(best, weights.softmax(0), strict=True))
            if gate.fixed[s]:
                chosen = dict.fromkeys(logits, torch.tensor(1.0))
            for k, weight in chosen.items():
                part = slice(k * R, (k + 1) * R)
                out[s, t] += 0.5 * weight * (b[s, part].T @ (a[s, part] @ x[s, t]))
    return out


def a_gate(learned: bool) -> TokenGate:
    """Fixed rows, missing deltas, top-k and temperature of each row, all different."""
    return TokenGate(
        live=torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1]]).bool(),
        fixed=torch.tensor([False, False, True]),
        top_k=torch.tensor([2, 3, 1]),
        temperature=torch.tensor([1.0, 7.0, 1.0]),
        cores=numbers(S, K, R, 2, seed=4)[..., 0],  # a slice, as one site's of many
        vectors=numbers(S, K, H1 + 3, seed=5)[..., 3:] if learned else None,
        learned=torch.tensor([[1, 0, 1, 0]] * S).bool() if learned else None,
        offset=numbers(S, K, seed=6) if learned else None,
    )


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("learned", [False, True])
def test_gated_products_equal_a_loop(learned: bool, impl: Impl) -> None:
    """Arrow and learned gates with all that can differ between rows, by every strategy."""
    gate = a_gate(learned)
    y, x = numbers(S, T, H2), numbers(S, T, H1, seed=1)
    a, b = numbers(S, K * R, H1, seed=2), numbers(S, K * R, H2, seed=3)
    with torch.no_grad():
        found = add_gated(y, x, a, b, gate, 0.5, impl)
    torch.testing.assert_close(found.y, by_hand(y, x, a, b, gate), atol=1e-5, rtol=1e-5)


@needs_c
@pytest.mark.parametrize("bank", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learned", [False, True])
def test_the_c_kernel_gates_as_torch_does(
    learned: bool, dtype: torch.dtype, bank: torch.dtype
) -> None:
    """Logits, weights and products; and with many rank rows, so that lists run over."""
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for rank, wide, out in ((R, H1, H2), (40, 37, 71)):
        gate = replace(
            a_gate(learned),
            cores=numbers(S, K, rank, seed=4) / rank,
            vectors=numbers(S, K, wide, seed=5) if learned else None,
        )
        y, x = numbers(S, 1, out).to(dtype), numbers(S, 1, wide, seed=1).to(dtype)
        a, b = numbers(S, K * rank, wide, seed=2).to(bank), numbers(S, K * rank, out, seed=3)
        a, b = a / wide, b.to(bank) / rank
        native_, torch_ = (add_gated(y, x, a, b, gate, 0.5, i) for i in ("native", "reference"))
        for mine, theirs in zip(native_, torch_, strict=True):
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


@needs_c
def test_the_c_kernel_refuses_what_wants_a_gradient() -> None:
    """Training a gate through it would lose the gradient silently."""
    gate = replace(a_gate(False), cores=numbers(S, K, R).requires_grad_())
    parts = numbers(S, 1, H2), numbers(S, 1, H1), numbers(S, K * R, H1), numbers(S, K * R, H2)
    with pytest.raises(InvalidInput, match="gradient"):
        add_gated(*parts, gate, impl="native")
    assert add_gated(*parts, gate).y.requires_grad


@pytest.mark.parametrize("top_k", [1, 2, K, K + 3])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_short_cuts_for_equal_rows_change_nothing(top_k: int, temperature: float) -> None:
    """Where all rows have K live deltas and one top_k, fewer operations give the same weights."""
    same = TokenGate(
        torch.ones(S, K).bool(), torch.zeros(S).bool(), torch.full((S,), top_k),
        torch.full((S,), temperature), numbers(S, K, R),
    )  # fmt: skip
    parts = numbers(S, T, H2), numbers(S, T, H1), numbers(S, K * R, H1), numbers(S, K * R, H2)
    found = add_gated(*parts, same, impl="reference")
    slow = gate_weights(found.logits, same.live, same.top_k, same.temperature)
    torch.testing.assert_close(found.weights, slow)
    assert int((found.weights > 0).sum(-1).max()) <= top_k


@pytest.mark.parametrize("impl", EVERY)
def test_y_is_written_only_when_that_was_allowed(impl: Impl) -> None:
    """``inplace`` gives the same numbers, and without it y stays."""
    y, x = numbers(S, 1, H2), numbers(S, 1, H1, seed=1)
    a, b = numbers(S, K * R, H1, seed=2), numbers(S, K * R, H2, seed=3)
    before = y.clone()
    found = add_gated(y, x, a, b, a_gate(True), impl=impl).y
    assert torch.equal(y, before)
    again = add_gated(y, x, a, b, a_gate(True), impl=impl, inplace=True).y
    torch.testing.assert_close(again, found)


def test_a_gate_of_some_rows_judges_them_as_before() -> None:
    """Dropping rows of a batch leaves the others' weights as they were."""
    gate = a_gate(True)
    y, x = numbers(S, T, H2), numbers(S, T, H1, seed=1)
    a, b = numbers(S, K * R, H1, seed=2), numbers(S, K * R, H2, seed=3)
    rows = torch.tensor([2, 0])
    some = add_gated(y[rows], x[rows], a[rows], b[rows], gate.of_rows(rows))
    torch.testing.assert_close(some.weights, add_gated(y, x, a, b, gate).weights[rows])


def test_temperature_flattens_and_top_1_is_all() -> None:
    """One delta takes everything; a high temperature shares equally among the top k."""
    logits, live = numbers(1, 6, 4), torch.ones(1, 4).bool()
    one = gate_weights(logits, live, torch.tensor([1]), torch.tensor([1.0]))
    assert torch.equal(one, torch.nn.functional.one_hot(logits.argmax(-1), 4).float())
    flat = gate_weights(logits, live, torch.tensor([2]), torch.tensor([1e6]))
    torch.testing.assert_close(flat.sort(-1).values[..., 2:], torch.full((1, 6, 2), 0.5))


def test_nothing_live_adds_nothing() -> None:
    """A row without deltas is left to the base, without NaN."""
    dead = torch.zeros(1, 2).bool()
    for temperature in (1.0, 0.5):
        weights = gate_weights(
            numbers(1, 3, 2), dead, torch.tensor([2]), torch.tensor([temperature])
        )
        assert torch.equal(weights, torch.zeros(1, 3, 2))
    gate = TokenGate(
        dead, torch.zeros(1).bool(), torch.tensor([2]), torch.tensor([0.5]), numbers(1, 2, R)
    )
    y = numbers(1, 1, H2)
    for impl in ("auto", "reference"):
        a, b = numbers(1, 2 * R, H1), numbers(1, 2 * R, H2)
        assert torch.equal(add_gated(y, numbers(1, 1, H1), a, b, gate, impl=impl).y, y)


def test_gradients_reach_vectors_and_factors() -> None:
    """Everything a gate is trained by has a gradient."""
    leaves = [numbers(1, K * R, H1), numbers(1, K * R, H2), numbers(1, K, H1)]
    a, b, vectors = (leaf.requires_grad_() for leaf in leaves)
    live = torch.ones(1, K).bool()
    gate = TokenGate(
        live, torch.zeros(1).bool(), torch.tensor([2]), torch.tensor([1.0]), None, vectors
    )
    add_gated(numbers(1, T, H2), numbers(1, T, H1, seed=1), a, b, gate).y.square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("name", ["live", "top_k", "cores", "vectors", "learned", "rank", "width"])
def test_a_gate_of_other_deltas_is_refused(impl: Impl, name: str) -> None:
    """A gate of fewer rows or numbers is named beside the bank, whatever would compute it."""
    gate = a_gate(learned=True)
    x, y = numbers(S, 1, H1, seed=1), numbers(S, 1, H2, seed=2)
    a, b = numbers(S, K * R, H1, seed=3), numbers(S, K * R, H2, seed=6)
    add_gated(y, x, a, b, gate, 0.5, impl)
    if name == "rank":
        short = replace(gate, cores=gate.cores[..., :-1])  # type: ignore[index]
    elif name == "width":
        short = replace(gate, vectors=gate.vectors[..., :-1])  # type: ignore[index]
    else:
        short = replace(gate, **{name: getattr(gate, name)[:-1]})
    with pytest.raises(InvalidInput, match="does not fit"):
        add_gated(y, x, a, b, short, 0.5, impl)
