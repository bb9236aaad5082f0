"""Forwards of a decode: the prompt once, then a token of each row at a time.

    Growing   a cache that grows with every token; rows that have ended can be dropped. The CPU path
    Fixed     a cache of one fixed size, so that every step is the same work in the same memory; on
              a GPU that step is captured once as a CUDA graph and replayed

Both take prompts of different lengths, padded on the left. They know nothing of when answers end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

ROOM = 64  # tokens a growing cache makes room for
_WARM_UP = 3  # eager steps before a capture, as torch.cuda.graphs asks for


class Steps(Protocol):
    """The forwards of one batch."""

    def prompt(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits ``(B, V)`` of each row's first new token."""

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, V)`` after one more token of each row, int64 ``(B,)``."""

    def keep(self, rows: Tensor) -> bool:
        """Go on with these rows only, int64 ``(B',)``; False if all are kept after all.

        ``Growing`` takes a row more than once, too.
        """


def steps_for(model: Any, new_tokens: int, *, reorders: bool = False) -> Steps:
    """The forwards that suit where ``model`` lies, and can keep a row more than once if need be."""
    device = next(model.parameters()).device
    fixed = device.type == "cuda" and not reorders
    return Fixed(model, new_tokens) if fixed else Growing(model)


class Growing:
    """Forwards over a cache that grows.

    Args:
        model: a transformers causal model, acting with whatever it acts with.
    """

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self.model = model
        self._device = next(model.parameters()).device
        self._last, self._end = last_position(self._device), _positions_of(model) - 1
        self._cache = DynamicCache(config=model.config)
        for number, layer in enumerate(self._cache.layers):
            if type(layer) is DynamicLayer:
                self._cache.layers[number] = _roomy()()
        self._mask = self._positions = torch.empty(0)

    def prompt(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Steps``."""
        ids, self._mask = left_padded(prompts, self._device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(ids)

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Steps``."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._end)
        return self._forward(tokens[:, None].to(self._device))

    def keep(self, rows: Tensor) -> bool:
        """See ``Steps``."""
        rows = rows.to(self._device)
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        return True

    def _forward(self, ids: Tensor) -> Tensor:
        with torch.inference_mode():
            out = self.model(
                input_ids=ids, attention_mask=self._mask, position_ids=self._positions,
                past_key_values=self._cache, use_cache=True, logits_to_keep=self._last,
            )  # fmt: skip
        return out.logits[:, -1].float()  # type: ignore[no-any-return]


class Fixed:
    """Forwards over a cache of fixed size.

    Args:
        model: as for ``Growing``; what it acts with must stay where it is in memory.
        new_tokens: steps at most.
    """

    def __init__(self, model: Any, new_tokens: int) -> None:
        self.model, self.new_tokens = model, new_tokens
        self._device = next(model.parameters()).device
        self._last, self._end = last_position(self._device), _positions_of(model) - 1
        self._graph: Any = None
        self._done = 0

    def prompt(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Steps``."""
        from transformers import StaticCache

        ids, mask = left_padded(prompts, self._device)
        batch, width = ids.shape
        self._cache = StaticCache(self.model.config, max_cache_len=width + self.new_tokens)
        # room for answers is masked until their tokens are there
        self._mask = torch.nn.functional.pad(mask, (0, self.new_tokens))
        self._at = torch.arange(width, device=self._device)
        self._positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(ids)
        self._ids = torch.zeros(batch, 1, dtype=torch.int64, device=self._device)
        self._at = self._at[-1:].clone()
        self._positions = self._positions[:, -1:].clone()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Steps``."""
        self._ids.copy_(tokens[:, None])
        self._positions.add_(1).clamp_(max=self._end)
        self._at += 1
        self._mask.index_fill_(1, self._at, 1)
        self._done += 1
        if self._device.type != "cuda" or self._done <= _WARM_UP:
            return self._forward(self._ids)
        if self._graph is None:
            self._capture()
        self._graph.replay()
        return self._logits.clone()

    def keep(self, rows: Tensor) -> bool:
        """See ``Steps``: the work of a step is fixed."""
        return len(rows) == len(self._ids)

    def _capture(self) -> None:
        """Record one step; recording runs nothing, so the step is still to be replayed."""
        torch.cuda.synchronize(self._device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._forward(self._ids)

    def _forward(self, ids: Tensor) -> Tensor:
        with torch.inference_mode():
            out = self.model(
                input_ids=ids, attention_mask=self._visible(ids.shape[1]),
                position_ids=self._positions, past_key_values=self._cache, use_cache=True,
                cache_position=self._at, logits_to_keep=self._last,
            )  # fmt: skip
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def _visible(self, tokens: int) -> Tensor:
        """The whole attention mask, additive ``(B, 1, tokens, room)``: causal and not padding."""
        room = torch.arange(self._mask.shape[1], device=self._device)
        seen = (room <= self._at[:, None])[None, None] & self._mask.bool()[:, None, None]
        # a padding row sees itself, or its softmax would be over nothing
        seen = seen | (room == self._at[:, None])[None, None]
        low = torch.finfo(self.model.dtype).min
        return torch.zeros_like(seen, dtype=self.model.dtype).masked_fill(~seen, low)


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 ``(B, T)``, padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def last_position(device: torch.device) -> Tensor:
    """What tells transformers to make logits of the last position alone, int64 ``(1,)``.

    Named by number (1) it takes a slice that is not contiguous, and torch then copies the output
    weights once for each row of the batch: six times slower prompts in bfloat16 (B = 16).
    """
    return torch.tensor([-1], device=device)


def _positions_of(model: Any) -> int:
    """How many positions a model has; rows that have ended may be carried on for longer."""
    return getattr(model.config, "max_position_embeddings", None) or 2**31


@cache
def _roomy() -> type[Any]:
    """The class of a growing cache's layer with room ahead: a token is written, no other copied.

    In a function, because importing transformers takes seconds.
    """
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):  # type: ignore[misc] # transformers is untyped
        """Keys and values are views ``(B, heads, T, d)`` into buffers with room for more."""

        keys: Tensor
        values: Tensor
        _room: tuple[Tensor, Tensor] | None = None

        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
            """Append keys and values ``(B, heads, t, d)``; returns all of them."""
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            had = self.keys.shape[-2] if self.keys.dim() == 4 else 0
            now = had + keys.shape[-2]
            room = self._room
            if room is None or now > room[0].shape[-2] or len(room[0]) != len(keys):
                room = self._room = self._grown(keys, values, had, max(now + ROOM, 2 * had))
            for whole, new in zip(room, (keys, values), strict=True):
                whole[:, :, had:now] = new
            self.keys, self.values = (whole[:, :, :now] for whole in room)
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            """Go on with these rows, int64 ``(B',)``; the buffers were of the old ones."""
            super().batch_select_indices(indices)
            self._room = None

        def _grown(
            self, keys: Tensor, values: Tensor, had: int, size: int
        ) -> tuple[Tensor, Tensor]:
            """Larger buffers that hold what there is."""
            made = []
            for new, old in ((keys, self.keys), (values, self.values)):
                whole = new.new_empty(*new.shape[:2], size, new.shape[-1])
                if had:
                    whole[:, :, :had] = old
                made.append(whole)
            return made[0], made[1]

    return Roomy
