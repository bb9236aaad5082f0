"""The two halves of a causal model: the body that gives hidden states, the head that gives logits.

A vocabulary of 30,000 words makes logits 80 times as wide as hidden states. Split like this, they
are computed only where there is a label, a few at a time, and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SplitModel:
    """A causal model as body and head, for one forward.

    Args:
        model: a transformers causal model, acting with whatever it acts with.

    Attributes:
        vocabulary: V, how many words it knows.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._body = model.get_decoder()
        names = [name for name, module in model.named_modules() if module is self._body]
        parent, _, self._name = names[0].rpartition(".")
        self._parent = model.get_submodule(parent)
        self._output: Any = None
        self._words = model.get_output_embeddings()
        self.vocabulary = int(self._words.weight.shape[0])

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """The last hidden states ``(B, T, H)`` of the body.

        Args:
            input_ids: int64 ``(B, T)``.
            attention_mask: int64 ``(B, T)``, or ``(B, 1, T, T)`` as the model's attention wants it.
            position_ids: int64 ``(B, T)``; None means the model's own.
        """
        given = {} if position_ids is None else {"position_ids": position_ids}
        self._output = self._body(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **given
        )
        hidden: Tensor = self._output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor, vocabulary: Tensor | None = None) -> Tensor:
        """The logits ``(n, V)`` of hidden states ``(n, H)``; after ``hidden_states``.

        Args:
            vocabulary: int64 ``(v,)``, the words that are wanted; the result is ``(n, v)`` then.

        This is the model's own forward with its body replaced by one that returns ``hidden``, so
        that whatever follows the body (BERT's transform, Gemma's soft cap) is done here too.
        """
        output = copy(self._output)
        output.last_hidden_state = hidden[None]
        self._parent._modules[self._name] = _Returns(output)
        try:
            with _only(self._words, vocabulary):
                whole = self._model(input_ids=None, inputs_embeds=hidden[None], use_cache=False)
        finally:
            self._parent._modules[self._name] = self._body
        logits: Tensor = whole.logits
        return logits.squeeze(0)


@contextmanager
def _only(linear: Any, vocabulary: Tensor | None) -> Iterator[None]:
    """The output linear giving only some of its rows."""
    if vocabulary is None:
        yield
        return
    bias = getattr(linear, "bias", None)

    def some(x: Tensor) -> Tensor:
        return F.linear(x, linear.weight[vocabulary], None if bias is None else bias[vocabulary])

    with answering(linear, some):
        yield


@contextmanager
def answering(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """``module`` with another forward, its hooks as they are."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


class _Returns(nn.Module):
    """A body that has already been run."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        """The output given at construction."""
        return self.output
