"""Fits N passages at once: one row of a bank ``(N, P)`` each, one forward for all.

Row n sees only its own sequences, its own gradient and its own optimizer state, so the result for a
passage does not depend on its neighbours. A step takes the next ``batch`` sequences of every
passage, exactly as a serial loop with that batch size would; passages with fewer sit out the rest.

What need not be computed is left out: see ``packing`` (what sequences share), ``shortcuts`` (what
does not depend on the rows, what no label is said from), ``precision`` (casts of frozen weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder
from adapterdb.training.loss import cross_entropies
from adapterdb.training.objective import TokenSequence, TrainingPassage, weighed_sequences
from adapterdb.training.optimizer import RowAdamW, RowSGD
from adapterdb.training.packing import Packed, Tree, batches, pack
from adapterdb.training.precision import cast_once
from adapterdb.training.recipes import Normalize, Recipe
from adapterdb.training.shortcuts import Lower, shortcuts_of
from adapterdb.training.start import Start

BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}  # of one forward; bounds memory

Weigh = Callable[[Sequence[TrainingPassage]], Sequence[Sequence[float]]]
Data = Sequence[Sequence[TokenSequence]]


@dataclass(frozen=True)
class Fitted:
    """The deltas of N passages.

    Args:
        rows: ``(N, P)`` float32 on the CPU: factors, or gradients at theta*.
        loss_before: ``(N,)`` loss on the passages' own sequences at the start, nats per token;
            every labelled token counts alike.
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
    weigh: Weigh | None = None,
) -> Fitted:
    """Make the deltas of ``passages`` by ``recipe``.

    Args:
        weigh: numbers >= 0 for the text ids of each passage's ``encoder.document``; None: all
            alike.

    Raises:
        Rejected: if a passage has nothing to learn from (see ``objective.sequences_of``).
    """
    data = weighed_sequences(passages, recipe, encoder, weigh)
    return fit_sequences(adapted, data, recipe, start)


def fit_sequences(adapted: AdaptedModel, data: Data, recipe: Recipe, start: Start) -> Fitted:
    """Make the deltas of N lists of sequences by ``recipe``; those of like length go together."""
    theta = start.theta.to(_device(adapted))
    rows = torch.empty(len(data), len(theta), dtype=theta.dtype)
    before, after = torch.empty(len(data)), torch.empty(len(data))
    with cast_once(adapted.model):
        for part, group in _groups(adapted, data, recipe.normalize):
            begin = theta.expand(len(part), -1)
            if recipe.produces == "gradient":
                first, made = group.gradients(begin, group.step())
                used = start.step(made.cpu()).to(begin.device)
            else:
                first, made = group.train(begin, recipe, measure=True)
                used = made
            rows[part], before[part] = made.to("cpu", rows.dtype), first.cpu().float()
            after[part] = group.losses(used, group.step()).cpu().float()
    return Fitted(rows, before, after)


def train(adapted: AdaptedModel, rows: Tensor, data: Data, recipe: Recipe) -> Tensor:
    """The recipe's optimizer on each row's own sequences, in order.

    Args:
        rows: ``(N, P)`` float32, where the passages start; left unchanged.
        data: N lists of sequences.

    Returns:
        The fitted rows ``(N, P)``.
    """
    bank = rows.clone()
    with cast_once(adapted.model):
        for part, group in _groups(adapted, data, recipe.normalize):
            bank[part] = group.train(rows[part], recipe, measure=False)[1]
    return bank


def gradients(adapted: AdaptedModel, rows: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Loss ``(N,)`` of each passage at its row, and its gradient ``(N, P)`` there (ReGrad's bank).

    The gradient is of the sum over passages, so that each row's is that of its own mean loss alone.
    Weights of tokens count in the gradient, not in the loss.
    """
    loss, gradient = torch.empty(len(rows), dtype=rows.dtype, device=rows.device), rows.clone()
    with cast_once(adapted.model):
        for part, group in _groups(adapted, data):
            loss[part], gradient[part] = group.gradients(rows[part], group.step())
    return loss, gradient


@torch.no_grad()
def losses(adapted: AdaptedModel, rows: Tensor, data: Data) -> Tensor:
    """``(N,)`` the loss of each passage's own sequences under its own row."""
    loss = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
    with cast_once(adapted.model):
        for part, group in _groups(adapted, data):
            loss[part] = group.losses(rows[part], group.step())
    return loss


Step = list[tuple[Tensor, Packed]]  # the passages ``(k,)`` of each part, and their batch


class _Group:
    """Some passages that go through the model together.

    Args:
        adapted: the model.
        trees: of N passages.
        normalize: of weights of tokens.
    """

    def __init__(self, adapted: AdaptedModel, trees: Sequence[Tree], normalize: Normalize) -> None:
        self._adapted, self._trees, self._normalize = adapted, trees, normalize
        self._device = _device(adapted)
        self._shortcuts = shortcuts_of(adapted)
        sizes = [len(tree.ids) for tree in trees]
        self._offsets = [sum(sizes[:n]) for n in range(len(sizes))]
        self._lower = Lower(sum(sizes))
        self._steps: dict[tuple[int, int], Step] = {}

    def train(self, rows: Tensor, recipe: Recipe, *, measure: bool) -> tuple[Tensor, Tensor]:
        """Losses ``(N,)`` at ``rows (N, P)`` if they are measured, and the fitted rows."""
        bank = rows.clone()
        longest = max(len(tree.paths) for tree in self._trees)
        size = recipe.batch or longest
        before = bank.new_empty(0)
        if measure and size < longest:
            before = self.losses(bank, self.step())
        optimizer = (
            RowAdamW(bank, recipe.lr, recipe.weight_decay)
            if recipe.optimizer == "adamw"
            else RowSGD(bank, recipe.lr)
        )
        for _ in range(recipe.epochs):
            for first in range(0, longest, size):
                step = self.step(first, size)
                loss, gradient = self.gradients(bank, step)
                if not len(before):
                    before = loss  # the first step had all sequences
                active = torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
                for which, _ in step:
                    active[which] = True
                optimizer.step(gradient, active)
        return before, bank

    def gradients(self, rows: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Losses ``(N,)`` without weights, and gradients ``(N, P)``, 0 for who sits out."""
        layout = self._adapted.layout
        loss, gradient = rows.new_zeros(len(rows)), torch.zeros_like(rows)
        for which, packed in step:
            leaves = _leaves(layout, rows if len(which) == len(rows) else rows[which])
            with torch.enable_grad():
                split, hidden = self._shortcuts.hidden_states(
                    self._adapted, leaves, packed, self._lower
                )
            each, upstream = cross_entropies(split, hidden.detach(), packed.labels, packed.shares)
            flat = [factor for pair in leaves for factor in pair]
            found = torch.autograd.grad(hidden, flat, upstream, allow_unused=True)
            part = gradient if len(which) == len(rows) and len(step) == 1 else rows.new_zeros(
                len(which), layout.size
            )  # fmt: skip
            for i, (a, b) in enumerate(zip(found[::2], found[1::2], strict=True)):
                for view, value in ((layout.a(part, i), a), (layout.b(part, i), b)):
                    if value is not None:
                        view.copy_(value)
            if part is not gradient:
                gradient.index_add_(0, which, part)
            loss.index_add_(0, which, packed.sums(each, packed.plain).to(loss.dtype))
        return loss, gradient

    @torch.no_grad()
    def losses(self, rows: Tensor, step: Step) -> Tensor:
        """Losses ``(N,)`` without weights."""
        loss = rows.new_zeros(len(rows))
        for which, packed in step:
            factors = self._adapted.layout.views(rows[which])
            split, hidden = self._shortcuts.hidden_states(
                self._adapted, factors, packed, self._lower
            )
            each, _ = cross_entropies(split, hidden, packed.labels)
            loss.index_add_(0, which, packed.sums(each, packed.plain).to(loss.dtype))
        return loss

    def step(self, first: int = 0, size: int = 0) -> Step:
        """The sequences ``first`` to ``first + size`` of each passage that has some; 0: all."""
        if (first, size) not in self._steps:
            whole = [
                list(range(len(tree.paths)))[first : first + size if size else None]
                for tree in self._trees
            ]
            rounds = self._rounds(whole)
            self._steps[first, size] = [self._packed(chosen, whole) for chosen in rounds]
        return self._steps[first, size]

    def _rounds(self, whole: list[list[int]]) -> Iterator[list[list[int]]]:
        """All sequences of a step; a few at a time where they are too many for one forward."""
        limit, most = BATCH_TOKENS[self._device.type], max(len(mine) for mine in whole)
        columns = max(len(tree.ids) for tree in self._trees)
        if len(whole) * columns > limit:
            long = max(len(path) for tree in self._trees for path in tree.paths)
            most = max(1, min(most, limit // (len(whole) * long)))
        for first in range(0, max(len(mine) for mine in whole), most):
            yield [mine[first : first + most] for mine in whole]

    def _packed(self, chosen: list[list[int]], whole: list[list[int]]) -> tuple[Tensor, Packed]:
        which = [n for n, mine in enumerate(chosen) if mine]
        packed = pack(
            [self._trees[n] for n in which],
            [chosen[n] for n in which],
            whole=[whole[n] for n in which],
            offsets=[self._offsets[n] for n in which],
            hidden_size=self._shortcuts.hidden_size,
            widest_tree=self._shortcuts.widest_tree,
            normalize=self._normalize,
            device=self._device,
        )
        return torch.tensor(which, device=self._device), packed


def _groups(
    adapted: AdaptedModel, data: Data, normalize: Normalize = "valid_tokens"
) -> Iterator[tuple[list[int], _Group]]:
    """Numbers of passages that go through the model together, and their group."""
    trees = [Tree(sequences) for sequences in data]
    trees_read = shortcuts_of(adapted).widest_tree
    tokens = [
        len(tree.ids) if trees_read else len(tree.paths) * max(len(path) for path in tree.paths)
        for tree in trees
    ]
    for part in batches(tokens, BATCH_TOKENS[_device(adapted).type]):
        yield part, _Group(adapted, [trees[n] for n in part], normalize)


def _leaves(layout: DeltaLayout, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Factors of ``rows (N, P)``, as views whose gradients can be asked for one by one."""
    return [
        (a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in layout.views(rows)
    ]


def _device(adapted: AdaptedModel) -> torch.device:
    return next(adapted.model.parameters()).device
