"""Gates that weigh deltas token by token, against loops written out."""

from __future__ import annotations

import pytest
import torch

from adapterdb.kernels import TokenGate, add_gated, gate_weights

S, T, K, R, H1, H2 = 3, 5, 4, 2, 8, 6


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
            best = sorted(logits, key=lambda k: -logits[k])[: int(gate.top_k[s])]
            weights = torch.tensor([logits[k] for k in best]) / gate.temperature[s]
            chosen = dict(zip(best, weights.softmax(0), strict=True))
            if gate.fixed[s]:
                chosen = dict.fromkeys(logits, torch.tensor(1.0))
            for k, weight in chosen.items():
                part = slice(k * R, (k + 1) * R)
                out[s, t] += 0.5 * weight * (b[s, part].T @ (a[s, part] @ x[s, t]))
    return out


@pytest.mark.parametrize("learned", [False, True])
def test_gated_products_equal_a_loop(learned: bool) -> None:
    """Arrow and learned gates, fixed rows, missing deltas, top-k and temperature of each row."""
    gate = TokenGate(
        live=torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1]]).bool(),
        fixed=torch.tensor([False, False, True]),
        top_k=torch.tensor([2, 3, 1]),
        temperature=torch.tensor([1.0, 7.0, 1.0]),
        cores=numbers(S, K, R, seed=4),
        vectors=numbers(S, K, H1, seed=5) if learned else None,
        learned=torch.tensor([[1, 0, 1, 0]] * S).bool() if learned else None,
    )
    y, x = numbers(S, T, H2), numbers(S, T, H1, seed=1)
    a, b = numbers(S, K * R, H1, seed=2), numbers(S, K * R, H2, seed=3)
    found = add_gated(y, x, a, b, gate, 0.5)
    torch.testing.assert_close(found.y, by_hand(y, x, a, b, gate), atol=1e-5, rtol=1e-5)


def test_temperature_flattens_and_top_1_is_all() -> None:
    """One delta takes everything; a high temperature shares equally among the top k."""
    logits, live = numbers(1, 6, 4), torch.ones(1, 4).bool()
    one = gate_weights(logits, live, torch.tensor([1]), torch.tensor([1.0]))
    assert torch.equal(one, torch.nn.functional.one_hot(logits.argmax(-1), 4).float())
    flat = gate_weights(logits, live, torch.tensor([2]), torch.tensor([1e6]))
    torch.testing.assert_close(flat.sort(-1).values[..., 2:], torch.full((1, 6, 2), 0.5))


def test_nothing_live_adds_nothing() -> None:
    """A row without deltas is left to the base, without NaN."""
    weights = gate_weights(
        numbers(1, 3, 2), torch.zeros(1, 2).bool(), torch.tensor([2]), torch.tensor([1.0])
    )
    assert torch.equal(weights, torch.zeros(1, 3, 2))


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
