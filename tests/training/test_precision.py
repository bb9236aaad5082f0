"""Casting frozen weights once gives what autocast gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from adapterdb.training.precision import cast_once


def frozen() -> nn.Module:
    """Two frozen linears."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 8)).requires_grad_(False)


def test_products_are_bit_for_bit_those_of_autocast() -> None:
    """Outputs and input gradients are equal; weights stay float32 and forwards are put back."""
    model, x = frozen(), torch.randn(5, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        want = model(x)
        with cast_once(model):
            got = model(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)
    up = torch.randn(5, 8).bfloat16()
    (mine,) = torch.autograd.grad(got, x, up)
    (theirs,) = torch.autograd.grad(want, x, up)
    assert torch.equal(mine, theirs)
    assert not [m for m in model.modules() if "forward" in vars(m)]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_weights_that_changed_are_cast_again() -> None:
    """A base that was tuned in between is seen as it is now."""
    model, x = frozen(), torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        with cast_once(model):
            before = model(x)
        with torch.no_grad():
            model[0].weight.mul_(2)
        with cast_once(model):
            after = model(x)
        assert torch.equal(after, model(x))
    assert not torch.equal(after, before)


def test_without_autocast_nothing_is_cast() -> None:
    """In float32 the products are the model's own."""
    model, x = frozen(), torch.randn(5, 16)
    with cast_once(model):
        assert torch.equal(model(x), model(x).float())
        assert not [m for m in model.modules() if "forward" in vars(m)]


def test_attention_that_is_differentiated_is_float32() -> None:
    """Queries that learn get float32's attention and gradient; others are left as they are."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8).bfloat16() for _ in range(3))
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    leaf = query.clone().requires_grad_()
    wide = query.float().requires_grad_()
    want = F.scaled_dot_product_attention(wide, key.float(), value.float(), attn_mask=mask)
    with torch.autocast("cpu", torch.bfloat16), cast_once(frozen()):
        got = F.scaled_dot_product_attention(leaf, key, value, attn_mask=mask)
        still = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want.bfloat16())
    assert torch.equal(still, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
    (mine,) = torch.autograd.grad(got.sum(), leaf)
    (theirs,) = torch.autograd.grad(want.sum(), wide)
    assert torch.equal(mine, theirs.bfloat16())
