"""The decoder written out, so that every passage of a batch can have its own LoRA row.

Same numbers as `BertLMHeadModel` (a test holds it to that), on that model's own parameters:

    y = W x + scale * B (A x)        at feed-forward linears of the adapted layers

with A and B taken per group of sequences from rows `[G, P]` of a `DeltaLayout`. Attention is
plain softmax, because the meta-gradient differentiates it twice. Knows no prompts and no loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertLMHeadModel

from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from recipes.mini.vocabulary import Vocabulary

RANK = 128
ADAPTED_LAYERS = 1
TARGETS = ("intermediate.dense",)
TRAINED_LAYERS = 4  # by stage 2, from the top; those below stay as the reader left them

Factors = tuple[Tensor, Tensor]


class Decoder:
    """Forward passes over a model, split below the layers that stage 2 trains.

    Args:
        model: shared, not copied.
        layout: sites are `intermediate.dense`, `output.dense` or both, of the last layers.
        trained_layers: how many, from the top; at least the adapted ones.
    """

    def __init__(
        self, model: BertLMHeadModel, layout: DeltaLayout, trained_layers: int = TRAINED_LAYERS
    ) -> None:
        self.model, self.layout = model, layout
        self.layers: list[nn.Module] = list(model.bert.encoder.layer)
        self.sites = {site.name: i for i, site in enumerate(layout.sites)}
        adapted = min(int(site.name.split(".")[3]) for site in layout.sites)
        self.split = max(0, min(adapted, len(self.layers) - trained_layers))

    def lower(self, ids: Tensor) -> Tensor:
        """Hidden states `[N, T, H]` below the first trained layer, without gradient.

        Args:
            ids: `[N, T]` int64, padded on the right; causal, so padding needs no mask.
        """
        with torch.no_grad():
            hidden: Tensor = self.model.bert.embeddings(ids)
            mask = causal_mask(ids.shape[1], ids.device)
            for layer in self.layers[: self.split]:
                hidden = self._layer(layer, hidden, mask, {})
            return hidden

    def upper(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """Hidden states `[N, T, H]` after the last layer.

        Args:
            hidden: `[N, T, H]` from `lower`.
            rows: `[G, P]`, sequence n acted on by row n // (N / G); None for the base model.
        """
        mask = causal_mask(hidden.shape[1], hidden.device)
        views = None if rows is None else self.layout.views(rows)
        for number in range(self.split, len(self.layers)):
            prefix = f"bert.encoder.layer.{number}."
            factors = {
                name: views[self.sites[prefix + name]]
                for name in ("intermediate.dense", "output.dense")
                if views is not None and prefix + name in self.sites
            }
            hidden = self._layer(self.layers[number], hidden, mask, factors)
        return hidden

    def logits(self, hidden: Tensor, vocabulary: Vocabulary | None = None) -> Tensor:
        """Float32 logits `[M, V]` of `hidden [M, H]`, of a part of the vocabulary where given."""
        head = self.model.cls.predictions
        words, bias = head.decoder.weight, head.bias
        if vocabulary is not None:
            words, bias = words[vocabulary.ids], bias[vocabulary.ids]
        return functional.linear(head.transform(hidden), words, bias).float()

    def _layer(
        self, layer: nn.Module, x: Tensor, mask: Tensor, factors: Mapping[str, Factors]
    ) -> Tensor:
        own = layer.attention.self
        heads = own.num_attention_heads
        q, k, v = (
            functional.linear(x, linear.weight, linear.bias)
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for linear in (own.query, own.key, own.value)
        )
        scores = (q @ k.mT) / math.sqrt(q.shape[-1]) + mask.to(q.dtype)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        out = layer.attention.output
        x = out.LayerNorm(out.dense(mixed) + x)
        inner = layer.intermediate.dense(x)
        if "intermediate.dense" in factors:
            inner = inner + self._lora(x, factors["intermediate.dense"])
        inner = functional.gelu(inner)
        outer = layer.output.dense(inner)
        if "output.dense" in factors:
            outer = outer + self._lora(inner, factors["output.dense"])
        return layer.output.LayerNorm(outer + x)

    def _lora(self, x: Tensor, factors: Factors) -> Tensor:
        """Scale * B (A x); x `[N, T, H1]`, A `[G, R, H1]`, transposed B `[G, R, H2]`."""
        a, b = (factor.to(x.dtype) for factor in factors)
        grouped = x.reshape(len(a), -1, x.shape[-1])
        return (self.layout.scale * torch.bmm(torch.bmm(grouped, a.mT), b)).reshape(
            *x.shape[:-1], b.shape[-1]
        )


def mini_layout(
    model: nn.Module,
    rank: int = RANK,
    upper_layers: int = ADAPTED_LAYERS,
    targets: Sequence[str] = TARGETS,
) -> DeltaLayout:
    """The layout of mini's deltas: linears of the upper layers, alpha = 2 rank."""
    linears = [
        (name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    spec = LoraSpec(
        rank=rank, alpha=2.0 * rank, targets=tuple(targets), layers=f"upper-{upper_layers}"
    )
    return plan_layout(spec, linears)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """`[T, T]` float32: 0 where column <= row, -inf elsewhere."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)
