"""How mini's prompts are made: by the product's encoder, with the templates that are exported.

Owns what only training needs: the longest sequence, and hiding part of a prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from adapterdb.prompts import FILE_NAME, PromptEncoder, read_prompts
from recipes.mini.start import base_tokenizer

PROMPTS_PATH = Path(__file__).with_name(FILE_NAME)
MAX_TOKENS = 480  # of a training sequence, answer included


class Piece(NamedTuple):
    """A passage as it is shown to the model; an empty title shows the text alone."""

    title: str
    text: str


def training_prompts() -> PromptEncoder:
    """The formats over mini's tokenizer, for sequences of up to `MAX_TOKENS`."""
    return PromptEncoder(read_prompts(PROMPTS_PATH.parent), base_tokenizer(), MAX_TOKENS)


class Mask:
    """Shows part of a prompt as `[MASK]`, so that a passage seen before is not known by heart.

    Args:
        tokenizer: knows the special tokens.
        rate: share of the tokens hidden, in half of the prompts; 0..1.
        rng: source of chance.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rate: float, rng: random.Random) -> None:
        self.rate, self.rng = rate, rng
        self._hidden: int = tokenizer.mask_token_id
        self._special = frozenset(tokenizer.all_special_ids)

    def __call__(self, prompt: list[int], target: Sequence[int]) -> list[int]:
        """The prompt; what it has in common with the target, and special tokens, always show."""
        if not self.rate or self.rng.random() < 0.5:
            return prompt
        shown = self._special.union(target)
        return [i if i in shown or self.rng.random() >= self.rate else self._hidden for i in prompt]
