"""The shipped folder loaded plainly, with deltas hooked onto it, and greedy answers.

Independent of the meta-training code on purpose: what it measures is what a stranger with
`AutoModelForCausalLM` and the row layout would get.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder, read_prompts
from recipes.mini.prompts import Piece
from recipes.mini.tasks import Padded, documents


class Adapted:
    """A frozen model whose sequences may each act with their own row `[P]`.

    Args:
        folder: a shipped model; rows need its `meta_init.safetensors`.
        device: where to compute.
        bfloat16: matrix products in bfloat16 (weights and rows stay float32).
    """

    def __init__(self, folder: Path, device: str, bfloat16: bool = False) -> None:
        self.device = torch.device(device)
        self.bfloat16 = bfloat16
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.requires_grad_(False).eval().to(self.device)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        length = self.model.config.max_position_embeddings
        self.prompts = PromptEncoder(read_prompts(folder), tokenizer, length)
        self._views: list[tuple[Tensor, Tensor]] | None = None
        self.layout: DeltaLayout | None = None
        path = folder / "meta_init.safetensors"
        if path.exists():
            with safe_open(path, "pt", device=device) as file:
                self.layout = DeltaLayout.from_dict(json.loads(file.metadata()["layout"]))
                self.theta: Tensor = file.get_tensor("theta")
                self.alpha: Tensor = file.get_tensor("alpha")
            for number, site in enumerate(self.layout.sites):
                module = self.model.get_submodule(site.name)
                module.register_forward_hook(self._hook(number, self.layout.scale))

    @contextmanager
    def using(self, rows: Tensor | None) -> Iterator[Any]:
        """The model acting with rows `[N, P]`, one for each sequence of the batch."""
        assert rows is None or self.layout is not None
        self._views = None if rows is None else self.layout.views(rows)  # type: ignore[union-attr]
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                yield self.model
        finally:
            self._views = None

    def gradients(self, pieces: Sequence[Piece], batch: int = 16) -> Tensor:
        """What ingesting stores: full-vocabulary mean-loss gradients at theta, `[N, P]`."""
        found = []
        for at in range(0, len(pieces), batch):
            docs = documents(self.prompts, pieces[at : at + batch])
            rows = self.theta.expand(len(docs.ids), -1).clone().requires_grad_()
            loss = (self.losses(docs, rows) * docs.row_weights.to(self.device)).sum()
            found += [torch.autograd.grad(loss, rows)[0]]
        return torch.cat(found)

    def losses(self, batch: Padded, rows: Tensor | None) -> Tensor:
        """Cross-entropy `[M]` at the labels of a batch."""
        with self.using(rows) as model:
            hidden = model.bert(batch.ids.to(self.device), use_cache=False).last_hidden_state
            logits = model.cls(hidden[batch.rows, batch.places]).float()
        return functional.cross_entropy(logits, batch.targets.to(self.device), reduction="none")

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[list[int]],
        rows: Callable[[list[int]], Tensor] | None,
        batch: int,
        max_new_tokens: int | None = None,
        beams: int = 1,
    ) -> list[str]:
        """Continuations, greedy or of a beam search, in the order of the prompts.

        Args:
            prompts: token ids.
            rows: prompt indices to rows `[n, P]`; None for the base model.
            batch: prompts at once.
            max_new_tokens: None: as the prompts' file says.
            beams: 1 is greedy; the length penalty is that of the prompts' file.
        """
        limit = max_new_tokens or self.prompts.prompts.max_new_tokens
        penalty = self.prompts.prompts.length_penalty
        searched = {"num_beams": beams, "length_penalty": penalty} if beams > 1 else {}
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), batch):
            chosen = order[at : at + batch]
            longest = max(len(prompts[i]) for i in chosen)
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, longest - len(prompts[i]) :] = 1
            acting = rows(chosen).repeat_interleave(beams, 0) if rows else None
            with self.using(acting) as model:
                out = model.generate(
                    input_ids=ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    max_new_tokens=limit,
                    do_sample=False,
                    **searched,
                )
            for i, generated in zip(chosen, out[:, longest:].tolist(), strict=True):
                answers[i] = self.prompts.decode(generated).strip()
        return answers

    def _hook(self, number: int, scale: float) -> Callable[..., Tensor | None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
            if self._views is None:
                return None
            a, b = self._views[number]
            return y + scale * torch.bmm(torch.bmm(inputs[0], a.mT), b)

        return add
