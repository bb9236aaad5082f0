"""What an inner loop moves, and one differentiable step of it.

A state is a tuple of tensors. Two spaces have the same three acts:

    Rows      one LoRA row (P,) of a layout; the base model stays frozen
    Whole     every parameter of the model, by ``functional_call`` (CaMeLS as published; small
              models only, since a step keeps a second copy of the model in its graph)

Everything here keeps a graph. Knows no weighting network and no outer loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.training.differentiable import Vocabulary, passage_losses, twice_differentiable
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.start import Start

State = tuple[Tensor, ...]
Normalisation = Literal["none", "valid_tokens", "sum_to_len"]


class Space(Protocol):
    """What is moved."""

    def begin(self) -> State:
        """The state everything starts from; a fresh copy without history."""

    def loss(
        self,
        state: State,
        sequences: Sequence[TokenSequence],
        weights: Tensor | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Tensor:
        """The mean over all labelled tokens of (weight *) cross entropy, nats; a scalar.

        ``weights (n,)`` are those of the labelled tokens, in order; None means 1 each.
        """

    def log_probabilities(self, state: State, sequences: Sequence[TokenSequence]) -> Tensor:
        """``(n, V)`` of the next token, at each of the n positions that are no padding."""

    def scales(self) -> State | None:
        """What the learning rate is multiplied by, like a state; None means 1."""


class Rows:
    """One row of LoRA factors.

    Args:
        adapted: the model.
        start: theta; with ``own_steps`` also alpha, the step of each number.
        own_steps: multiply the learning rate by ``start.alpha``.
    """

    def __init__(self, adapted: AdaptedModel, start: Start, *, own_steps: bool = False) -> None:
        self.adapted = adapted
        device = next(adapted.model.parameters()).device
        self._theta = start.theta.to(device)
        self._alpha = start.alpha.to(device) if own_steps else None

    def begin(self) -> State:
        """theta."""
        return (self._theta.clone(),)

    def scales(self) -> State | None:
        """alpha, or None."""
        return None if self._alpha is None else (self._alpha,)

    def loss(
        self,
        state: State,
        sequences: Sequence[TokenSequence],
        weights: Tensor | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Tensor:
        """See ``Space``."""
        data, row = [list(sequences)], state[0][None]
        return passage_losses(self.adapted, row, data, weights=weights, vocabulary=vocabulary)[0]

    def log_probabilities(self, state: State, sequences: Sequence[TokenSequence]) -> Tensor:
        """See ``Space``."""
        with self.adapted.using_rows(state[0][None]) as model:
            return _log_probabilities(lambda **inputs: model(**inputs), sequences, state[0].device)


class Whole:
    """Every parameter of a model.

    Args:
        model: a transformers causal model, in eval mode; its own numbers are never changed.
    """

    def __init__(self, model: Any) -> None:
        self.model: nn.Module = model
        self._names = [name for name, _ in model.named_parameters()]

    def begin(self) -> State:
        """The model's own parameters."""
        return tuple(p.detach().clone() for p in self.model.parameters())

    def scales(self) -> State | None:
        """None."""
        return None

    def loss(
        self,
        state: State,
        sequences: Sequence[TokenSequence],
        weights: Tensor | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Tensor:
        """See ``Space``; the softmax is always over all words."""
        ids, mask, labels = pad(sequences, state[0].device)
        logits = self._call(state, input_ids=ids, attention_mask=mask).logits
        kept = labels != -100
        each = F.cross_entropy(logits[kept], labels[kept], reduction="none")
        return (each if weights is None else each * weights).mean()

    def log_probabilities(self, state: State, sequences: Sequence[TokenSequence]) -> Tensor:
        """See ``Space``."""
        return _log_probabilities(
            lambda **inputs: self._call(state, **inputs), sequences, state[0].device
        )

    def named(self, state: State) -> dict[str, Tensor]:
        """A state by the names of the parameters."""
        return dict(zip(self._names, state, strict=True))

    def _call(self, state: State, **inputs: Tensor) -> Any:
        with twice_differentiable():
            return functional_call(
                self.model, self.named(state), kwargs={"use_cache": False, **inputs}
            )


def normalised(weights: Tensor, how: str, positions: int | None = None, rows: int = 1) -> Tensor:
    """Weights of labelled tokens such that the mean of w * CE over them is the loss ``how`` asks.

        none          sum of w * CE / (rows * positions), padding counted (CaMeLS as published: the
                      step depends on padding and on the size of the weights)
        valid_tokens  sum of w * CE / number of labelled tokens
        sum_to_len    as valid_tokens, with w scaled to mean 1 first

    Args:
        weights: ``(n,)`` of the n labelled tokens.
        how: one of these.
        positions: L - 1 of the padded batch, for ``none``.
        rows: of the batch.

    Raises:
        InvalidInput: for another ``how``.
    """
    if how not in get_args(Normalisation):
        raise InvalidInput(
            f"normalisation {how!r} is not one of {', '.join(get_args(Normalisation))}"
        )
    if how == "sum_to_len":
        return weights / weights.mean().clamp(min=1e-8)
    if how == "none" and positions is not None:
        return weights * (len(weights) / (rows * positions))
    return weights


def sgd_step(
    space: Space, state: State, loss: Tensor, lr: float, *, create_graph: bool = True
) -> State:
    """``state - lr * scale * gradient``, part of the graph of ``loss`` (and of ``state``)."""
    with twice_differentiable():
        gradients = torch.autograd.grad(
            loss, state, create_graph=create_graph, materialize_grads=True
        )
    scales = space.scales()
    if scales is not None:
        gradients = tuple(g * scale for g, scale in zip(gradients, scales, strict=True))
    return tuple(old - lr * g for old, g in zip(state, gradients, strict=True))


def leaves(state: State) -> State:
    """The state without history, ready to be differentiated for."""
    return tuple(tensor.detach().requires_grad_() for tensor in state)


def _log_probabilities(
    call: Any, sequences: Sequence[TokenSequence], device: torch.device
) -> Tensor:
    ids, mask, _ = pad(sequences, device)
    with twice_differentiable():
        logits = call(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask != 0]
    wide = torch.promote_types(logits.dtype, torch.float32)
    found: Tensor = logits.to(wide).log_softmax(-1)
    return found
