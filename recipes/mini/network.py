"""The decoder written out, so that every passage of a batch can have its own LoRA row.

Same numbers as `BertLMHeadModel` (a test holds it to that), on that model's own parameters:

    y = W x + scale * B (A x)        at feed-forward linears of the adapted layers

with A and B taken per group of sequences from rows `[G, P]` of a `DeltaLayout`. Knows no
prompts and no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertLMHeadModel

from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from recipes.mini.attention import causal_attention
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
        self.adapted = min(int(site.name.split(".")[3]) for site in layout.sites)
        self.split = max(0, min(self.adapted, len(self.layers) - trained_layers))

    def lower(self, ids: Tensor) -> Tensor:
        """Hidden states `[N, T, H]` below the first trained layer, without gradient.

        Args:
            ids: `[N, T]` int64, padded on the right; causal, so padding needs no mask.
        """
        with torch.no_grad():
            hidden: Tensor = self.model.bert.embeddings(ids)
            for layer in self.layers[: self.split]:
                hidden = layer_states(layer, hidden)
            return hidden

    def upper(
        self,
        hidden: Tensor,
        rows: Tensor | None,
        kept: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Hidden states `[N, L, H]` after the last layer.

        Args:
            hidden: `[N, T, H]` from `lower`.
            rows: `[G, P]`, sequence n acted on by row n // (N / G); None for the base model.
            kept: `[N, L]` int64, the positions wanted; None for all, L = T.
            dropout: rate of the layers' branches.
        """
        index = None
        if kept is not None:
            index = torch.arange(len(kept), device=kept.device)[:, None], kept
        views = None if rows is None else self.layout.views(rows)
        for number in range(self.split, len(self.layers)):
            prefix = f"bert.encoder.layer.{number}."
            factors = {
                name: views[self.sites[prefix + name]]
                for name in ("intermediate.dense", "output.dense")
                if views is not None and prefix + name in self.sites
            }
            # the inner step differentiates what lies above the first adapted linear
            twice = rows is not None and number > self.adapted
            hidden = layer_states(
                self.layers[number],
                hidden,
                factors,
                self.layout.scale,
                twice=twice,
                kept=index if number == len(self.layers) - 1 else None,
                dropout=dropout,
            )
        return hidden

    def logits(self, hidden: Tensor, vocabulary: Vocabulary | None = None) -> Tensor:
        """Float32 logits `[M, V]` of `hidden [M, H]`, of a part of the vocabulary where given."""
        head = self.model.cls.predictions
        words, bias = head.decoder.weight, head.bias
        if vocabulary is not None:
            words, bias = words[vocabulary.ids], bias[vocabulary.ids]
        return functional.linear(head.transform(hidden), words, bias).float()


def layer_states(
    layer: nn.Module,
    x: Tensor,
    factors: Mapping[str, Factors] | None = None,
    scale: float = 1.0,
    twice: bool = False,
    kept: tuple[Tensor, Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Hidden states `[N, T, H]` after one layer of `BertLMHeadModel`, causal, given those before.

    Args:
        layer: a `BertLayer`.
        x: `[N, T, H]`, sequences padded on the right, which needs no mask.
        factors: A and transposed B for `intermediate.dense` and `output.dense`.
        scale: of B A.
        twice: whether attention will be differentiated twice.
        kept: indices of sequences and of positions; only these states are computed behind
            attention, in the shape that indexing by these gives.
        dropout: rate of both branches, see `dropped`.
    """
    factors = factors or {}
    own, out = layer.attention.self, layer.attention.output
    q, k, v = own.query(x), own.key(x), own.value(x)
    mixed = causal_attention(q, k, v, own.num_attention_heads, twice)
    sequences = None
    if kept is not None:
        mixed, x, sequences = mixed[kept], x[kept], kept[0]
    x = out.LayerNorm(dropped(out.dense(mixed), dropout, sequences) + x)
    inner = layer.intermediate.dense(x)
    if "intermediate.dense" in factors:
        inner = inner + _lora(x, factors["intermediate.dense"], scale)
    inner = functional.gelu(inner)
    outer = layer.output.dense(inner)
    if "output.dense" in factors:
        outer = outer + _lora(inner, factors["output.dense"], scale)
    states: Tensor = layer.output.LayerNorm(dropped(outer, dropout, sequences) + x)
    return states


def dropped(x: Tensor, rate: float, sequences: Tensor | None = None) -> Tensor:
    """Dropout whose mask all positions of a sequence share (Gal and Ghahramani, 2016).

    As many random numbers as sequences have features, not as there are states: nearly free.

    Args:
        x: `[N, T, H]`, or states `[..., H]` picked from sequences.
        rate: 0..1; 0 gives x.
        sequences: `[...]` int64, broadcastable, which sequence each picked state is of.
    """
    if not rate:
        return x
    count = len(x) if sequences is None else int(sequences.max()) + 1
    mask = torch.empty(count, x.shape[-1], device=x.device, dtype=x.dtype).bernoulli_(1 - rate)
    mask /= 1 - rate
    return x * (mask[:, None] if sequences is None else mask[sequences])


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


def _lora(x: Tensor, factors: Factors, scale: float) -> Tensor:
    """Scale * B (A x); x `[N, T, H1]`, A `[G, R, H1]`, transposed B `[G, R, H2]`."""
    a, b = (factor.to(x.dtype) for factor in factors)
    grouped = x.reshape(len(a), -1, x.shape[-1])
    return (scale * torch.bmm(torch.bmm(grouped, a.mT), b)).reshape(*x.shape[:-1], b.shape[-1])
