"""A base model in this process as a text generator: one that was trained to follow instructions.

Prompts go through the tokenizer's chat template where it has one. Rows are padded on the left. A
sampled text depends on its batch as well as on the seed; a greedy one on neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapterdb.base_model import BaseModel
from adapterdb.errors import Rejected
from adapterdb.ingest.augment.generator import Sampling, Skill


class LocalGenerator:
    """Generates with a loaded base model.

    Args:
        base: the model.
        at_once: prompts in one batch.
    """

    skill: Skill = "instructions"

    def __init__(self, base: BaseModel, at_once: int = 8) -> None:
        self.base, self.at_once = base, at_once

    @property
    def name(self) -> str:
        """The base model's."""
        return self.base.name

    @property
    def fingerprint(self) -> str:
        """The base model's, and its number type: bfloat16 may choose other words."""
        return f"{self.base.fingerprint}/{str(self.base.dtype).removeprefix('torch.')}"

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """As `TextGenerator.generate`; ``too_long`` where prompt and text would not fit."""
        rows = [self._encode(prompt) for prompt in prompts]
        found: list[str] = []
        for i in range(0, len(rows), self.at_once):
            found += generate_rows(self.base, rows[i : i + self.at_once], sampling)
        return [_cut(text, sampling.stop) for text in found]

    def _encode(self, prompt: str) -> list[int]:
        tokenizer = self.base.tokenizer
        if getattr(tokenizer, "chat_template", None):
            turns = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            return [int(i) for i in ids]
        bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return bos + self.base.encoder.text(prompt)


def generate_rows(base: BaseModel, rows: Sequence[Sequence[int]], sampling: Sampling) -> list[str]:
    """The texts that follow the given token ids, special tokens left out.

    Args:
        base: the model; its own end tokens end a text, ``sampling.stop`` only saves time.
        rows: ids of each prompt, none empty.
        sampling: how texts are drawn; from the 50 likeliest tokens.

    Raises:
        Rejected: ``too_long`` if a prompt and ``max_tokens`` exceed the model's positions.
    """
    width, limit = max(map(len, rows)), base.encoder.max_length
    if width + sampling.max_tokens > limit:
        raise Rejected(
            f"a prompt of {width} tokens and {sampling.max_tokens} to be written exceed the"
            f" {limit} tokens that {base.name!r} can attend to",
            code="too_long",
            hint="use shorter passages (--chunk-tokens) or another model",
        )
    pad = base.tokenizer.pad_token_id
    pad = 0 if pad is None else int(pad)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {"stop_strings": list(sampling.stop), "tokenizer": base.tokenizer}
    drawn = {"temperature": sampling.temperature, "top_k": 50} if sampling.temperature else {}
    cuda = [base.device] if base.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(sampling.seed)
        out = base.model.generate(
            input_ids=ids.to(base.device),
            attention_mask=mask.to(base.device),
            max_new_tokens=sampling.max_tokens,
            pad_token_id=pad,
            eos_token_id=sorted(base.encoder.stops()[0]) or None,
            do_sample=bool(drawn),
            **drawn,
            **(options if sampling.stop else {}),
        )
    return [base.encoder.decode(row[width:].tolist()).strip() for row in out]


def _cut(text: str, stop: Sequence[str]) -> str:
    """What precedes the first stop text."""
    return text[: min([text.index(s) for s in stop if s in text], default=len(text))].strip()
