"""Cross entropy a few places at a time, with the gradient for the hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from adapterdb.base_model import load_base_model
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import cross_entropies


def test_equals_torch_over_several_chunks(tiny_folder: Callable[[str], Path]) -> None:
    """Losses and gradient agree with autograd's over all places at once, large logits included."""
    base = load_base_model(str(tiny_folder("bert")), dtype="float32")
    split = SplitModel(base.model)
    split.hidden_states(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))
    torch.manual_seed(0)
    n = 2**21 // split.vocabulary + 9
    hidden = torch.randn(n, 32) * 30
    labels, shares = torch.randint(split.vocabulary, (n,)), torch.rand(n)
    each, upstream = cross_entropies(split, hidden, labels, shares)
    leaf = hidden.clone().requires_grad_()
    want = F.cross_entropy(split.logits(leaf), labels, reduction="none")
    (slope,) = torch.autograd.grad((want * shares).sum(), leaf)
    torch.testing.assert_close(each, want.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(upstream, slope, atol=1e-7, rtol=1e-4)
    alone, none = cross_entropies(split, hidden, labels)
    assert torch.equal(alone, each)
    assert none.numel() == 0
