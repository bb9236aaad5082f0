"""The two halves of a causal model: the body that gives hidden states, the head that gives logits.

A vocabulary of 30,000 words makes logits 80 times as wide as hidden states. Split like this, they
are computed only where there is a label, a few at a time, and never kept.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as Output


def hidden_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last hidden states ``(B, T, H)`` of the model's body."""
    body = getattr(model, model.base_model_prefix)
    out = body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """The logits ``(n, V)`` of hidden states ``(n, H)``.

    This is the model's own forward with its body replaced by one that returns ``hidden``, so that
    whatever the model does after its body (BERT's transform, Gemma's soft cap) is done here too.
    """
    name = model.base_model_prefix
    body = model._modules[name]
    model._modules[name] = _Returns(hidden[None])
    try:
        logits: Tensor = model(input_ids=None, inputs_embeds=hidden[None], use_cache=False).logits
    finally:
        model._modules[name] = body
    return logits[0]


class _Returns(nn.Module):
    """A body that has already been run."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Output:
        """The hidden states given at construction."""
        return Output(last_hidden_state=self.hidden)
