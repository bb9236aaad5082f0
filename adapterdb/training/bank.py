"""Fits N passages at once: one row of a bank ``(N, P)`` each, one forward for all.

Row n sees only its own sequences, its own gradient and its own AdamW state, so the result for a
passage does not depend on its neighbours. A step takes the next sequence of every passage, exactly
as a serial loop with batch size 1 would; passages with fewer sequences sit out the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.prompts import PromptEncoder
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import Targets, pad, targets_of, token_losses
from adapterdb.training.objective import TokenSequence, TrainingPassage, sequences_of
from adapterdb.training.recipes import Recipe
from adapterdb.training.start import Start

_NOTHING = TokenSequence(())


@dataclass(frozen=True)
class Fitted:
    """The deltas of N passages.

    Args:
        rows: ``(N, P)`` float32 on the CPU: factors, or gradients at theta*.
        loss_before: ``(N,)`` loss on the passages' own sequences at the start, nats per token.
        loss_after: the same with each passage's own delta.
    """

    rows: Tensor
    loss_before: Tensor
    loss_after: Tensor


def fit(
    adapted: AdaptedModel,
    encoder: PromptEncoder,
    passages: Sequence[TrainingPassage],
    recipe: Recipe,
    start: Start,
) -> Fitted:
    """Make the deltas of ``passages`` by ``recipe``.

    Raises:
        Rejected: if a passage has nothing to learn from (see ``objective.sequences_of``).
    """
    data = [sequences_of(passage, recipe, encoder) for passage in passages]
    theta = start.theta.to(_device(adapted))
    rows = theta.expand(len(data), -1).clone()
    if recipe.produces == "gradient":
        before, made = gradients(adapted, rows, data)
        used = start.step(made.cpu()).to(rows.device)
    else:
        before = losses(adapted, rows, data)
        made = used = train(adapted, rows, data, recipe)
    return Fitted(made.cpu(), before.cpu(), losses(adapted, used, data).cpu())


def train(
    adapted: AdaptedModel, rows: Tensor, data: Sequence[Sequence[TokenSequence]], recipe: Recipe
) -> Tensor:
    """AdamW on each row's own sequences, one sequence a step, in order.

    Args:
        rows: ``(N, P)`` float32, where the passages start; left unchanged.
        data: N lists of sequences.

    Returns:
        The fitted rows ``(N, P)``.
    """
    bank = rows.clone()
    optimizer = RowAdamW(bank, recipe.lr, recipe.weight_decay)
    for _ in range(recipe.epochs):
        for step in range(max(len(sequences) for sequences in data)):
            active = torch.tensor([step < len(s) for s in data], device=bank.device)
            batch = [s[step] if step < len(s) else _NOTHING for s in data]
            _, gradient = gradients(adapted, bank, [[sequence] for sequence in batch])
            optimizer.step(gradient, active)
    return bank


def gradients(
    adapted: AdaptedModel, rows: Tensor, data: Sequence[Sequence[TokenSequence]]
) -> tuple[Tensor, Tensor]:
    """Loss ``(N,)`` of each passage at its row, and its gradient ``(N, P)`` there (ReGrad's bank).

    The gradient is of the sum over passages, so that each row's is that of its own mean loss alone.
    """
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_()
        split, hidden, targets = _forward(adapted, leaf, data)
        loss, upstream = token_losses(split, hidden.detach(), targets, gradient=True)
        (gradient,) = torch.autograd.grad(hidden, leaf, upstream)
    return loss, gradient


@torch.no_grad()
def losses(adapted: AdaptedModel, rows: Tensor, data: Sequence[Sequence[TokenSequence]]) -> Tensor:
    """``(N,)`` the loss of each passage's own sequences under its own row."""
    split, hidden, targets = _forward(adapted, rows, data)
    return token_losses(split, hidden, targets, gradient=False)[0]


def _forward(
    adapted: AdaptedModel, bank: Tensor, data: Sequence[Sequence[TokenSequence]]
) -> tuple[SplitModel, Tensor, Targets]:
    """The model, hidden states ``(n, H)`` of all labelled positions, and what they should say."""
    width = max(len(sequences) for sequences in data)
    flat = [
        sequence
        for sequences in data
        for sequence in [*sequences, *[_NOTHING] * (width - len(sequences))]
    ]
    ids, mask, labels = pad(flat, bank.device)
    with adapted.using_rows(bank) as model:
        split = SplitModel(model)
        hidden = split.hidden_states(ids, mask)
    return split, hidden[labels != -100], targets_of(labels, len(data))


class RowAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) where every row counts its own steps.

    Args:
        bank: ``(N, P)`` float32, updated in place.
        lr, weight_decay: as in torch; betas 0.9 and 0.999, eps 1e-8.
    """

    def __init__(self, bank: Tensor, lr: float, weight_decay: float) -> None:
        self.bank, self.lr, self.weight_decay = bank, lr, weight_decay
        self.mean = torch.zeros_like(bank)
        self.square = torch.zeros_like(bank)
        self.steps = torch.zeros(len(bank), 1, device=bank.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """Update the rows where ``active (N,)`` is true; the others keep their state."""
        which = active.nonzero().squeeze(1)
        g = gradient[which]
        self.steps[which] += 1
        self.mean[which] = self.mean[which].lerp_(g, 0.1)
        self.square[which] = self.square[which].mul_(0.999).addcmul_(g, g, value=0.001)
        count = self.steps[which]
        mean = self.mean[which] / (1 - 0.9**count)
        root = (self.square[which] / (1 - 0.999**count)).sqrt_().add_(1e-8)
        rows = self.bank[which] * (1 - self.lr * self.weight_decay)
        self.bank[which] = rows.addcdiv_(mean, root, value=-self.lr)


def _device(adapted: AdaptedModel) -> torch.device:
    return next(adapted.model.parameters()).device
