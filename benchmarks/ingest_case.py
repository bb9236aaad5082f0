"""One way of making deltas and everybody who makes them so: the part of bench_ingest that is timed.

A case is a model, a recipe, a layout and sequences; ours, a serial peft loop and
``transformers.Trainer`` make the same rows of it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.layout import DeltaLayout, plan_layout
from adapterdb.prompts import PromptEncoder
from adapterdb.training import bank
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence, TrainingPassage, sequences_of
from adapterdb.training.recipes import Recipe
from adapterdb.training.shortcuts import shortcuts_of
from adapterdb.training.start import Start, base_weight

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
WORDS = 120  # of a passage
Data = list[list[TokenSequence]]


def small_llama(tiny: bool = False) -> Any:
    """Random Llama of the sizes above; ``tiny``: two layers of 64 for a test."""
    torch.manual_seed(0)
    hidden, layers, inner = (64, 2, 128) if tiny else (384, 8, 1024)
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=6 if not tiny else 4, num_key_value_heads=2, vocab_size=8192,
        max_position_embeddings=512,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def passages(count: int, words: int = WORDS) -> list[TrainingPassage]:
    """Passages of ``words`` words of the example corpus, with a rewrite and three pairs each.

    The rewrite has the sentences the other way round; a question names four words of the text, its
    answer is the two that follow.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.md"))]
    every = " ".join(text.split("\n---\n", 1)[1] for text in texts).split()
    found = []
    for i in range(count):
        first = i * words % (len(every) - words)
        mine = every[first : first + words]
        pairs = tuple(
            (f"What follows '{' '.join(mine[at : at + 4])}'?", " ".join(mine[at + 4 : at + 6]))
            for at in (5, words // 3, words // 2)
        )
        sentences = " ".join(mine).split(". ")
        found.append(
            TrainingPassage(f"Part {i}", " ".join(mine), ". ".join(sentences[::-1]), pairs)
        )
    return found


@dataclass
class Case:
    """One model, one recipe, one layout, the same sequences for everyone."""

    name: str
    model: Any
    layout: DeltaLayout
    start: Start
    recipe: Recipe
    data: Data
    adapted: AdaptedModel
    rows: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def make(
        cls, name: str, model: Any, encoder: PromptEncoder, recipe: Recipe, layers: str, count: int,
        fold: int = 0,
    ) -> Case:  # fmt: skip
        """A case of ``count`` passages; ``fold``: token ids modulo so many words."""
        linears = [
            (path, m.in_features, m.out_features)
            for path, m in model.named_modules()
            if isinstance(m, torch.nn.Linear)
        ]
        recipe = replace(recipe, lora=replace(recipe.lora, layers=layers))
        layout = plan_layout(recipe.lora, linears)
        data = [sequences_of(passage, recipe, encoder) for passage in passages(count)]
        if fold:
            data = [[replace(s, ids=tuple(i % fold for i in s.ids)) for s in mine] for mine in data]
        adapted = AdaptedModel(model, layout)
        shortcuts_of(adapted)  # the trial is once per home
        return cls(name, model, layout, base_weight(layout), recipe, data, adapted)

    def ours(self, dtype: str, *, losses: bool = False) -> None:
        """All passages in one bank."""
        with autocast(dtype, self.model):
            if losses:
                bank.fit_sequences(self.adapted, self.data, self.recipe, self.start)
                return
            rows = self.start.theta.expand(len(self.data), -1)
            rows = rows.to(next(self.model.parameters()).device)
            self.rows[f"ours {dtype}"] = bank.train(self.adapted, rows, self.data, self.recipe)

    def serial(self, dtype: str, *, wider: int = 0) -> None:
        """One passage after the other by peft and AdamW; the model is wrapped once."""
        name = f"serial {dtype}, padded" if wider else f"serial {dtype}"
        with self._peft() as (model, tuned), autocast(dtype, self.model):
            self.rows[name] = torch.stack(
                [self._serially(model, tuned, sequences, wider) for sequences in self.data]
            )

    def trainer(self) -> None:
        """One passage after the other by a Trainer each, without saving."""
        with self._peft() as (model, tuned), tempfile.TemporaryDirectory() as folder:
            self.rows["trainer"] = torch.stack(
                [self._trained(model, tuned, sequences, folder) for sequences in self.data]
            )

    @contextlib.contextmanager
    def _peft(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        """The model wrapped by peft, without our hooks, and its trainable weights."""
        self.adapted.remove()
        config = peft.LoraConfig(
            r=self.layout.rank, lora_alpha=self.layout.alpha, lora_dropout=0.0,
            target_modules=[site.name for site in self.layout.sites],
        )  # fmt: skip
        model = peft.get_peft_model(self.model, config)
        yield model, {n: p for n, p in model.named_parameters() if p.requires_grad}
        model.unload()
        self.adapted = AdaptedModel(self.model, self.layout)
        shortcuts_of(self.adapted)

    def _weights(self, tuned: dict[str, Tensor], site: str) -> tuple[Tensor, Tensor]:
        a, b = (tuned[f"base_model.model.{site}.lora_{x}.default.weight"] for x in "AB")
        return a, b

    def _begin(self, tuned: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for site, factors in self.layout.unpack(self.start.theta).items():
                for weight, value in zip(self._weights(tuned, site), factors, strict=True):
                    weight.copy_(value)

    def _row(self, tuned: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            made = {s.name: self._weights(tuned, s.name) for s in self.layout.sites}
            return self.layout.pack(made, torch.zeros(self.layout.size))

    def _serially(
        self, model: Any, tuned: dict[str, Tensor], sequences: list[TokenSequence], wider: int
    ) -> Tensor:
        self._begin(tuned)
        recipe, device = self.recipe, next(model.parameters()).device
        optimizer = torch.optim.AdamW(
            tuned.values(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        size = recipe.batch or len(sequences)
        for _ in range(recipe.epochs):
            for first in range(0, len(sequences), size):
                ids, mask, labels = (
                    torch.nn.functional.pad(part, (0, wider), value=value)
                    for part, value in zip(
                        pad(sequences[first : first + size], device), (0, 0, -100), strict=True
                    )
                )
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return self._row(tuned)

    def _trained(
        self, model: Any, tuned: dict[str, Tensor], sequences: list[TokenSequence], folder: str
    ) -> Tensor:
        self._begin(tuned)
        recipe, size = self.recipe, self.recipe.batch or len(sequences)

        def collate(items: list[dict[str, TokenSequence]]) -> dict[str, Tensor]:
            mine = [item["sequence"] for item in items]
            ids, mask, after = pad(mine, torch.device("cpu"))
            labels = torch.cat([torch.full((len(mine), 1), -100), after[:, :-1]], 1)
            return {"input_ids": ids, "attention_mask": mask, "labels": labels}

        class InOrder(transformers.Trainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset)

        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=size, num_train_epochs=recipe.epochs,
            learning_rate=recipe.lr, weight_decay=recipe.weight_decay, adam_epsilon=1e-8,
            max_grad_norm=0.0, lr_scheduler_type="constant", save_strategy="no", report_to=[],
            logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            use_cpu=next(model.parameters()).device.type == "cpu", dataloader_pin_memory=False,
            optim="adamw_torch", seed=0,
        )  # fmt: skip
        trainer = InOrder(
            model, arguments, data_collator=collate,
            train_dataset=[{"sequence": s} for s in sequences],
        )  # fmt: skip
        with contextlib.redirect_stdout(None):
            trainer.train()
        model.eval()
        return self._row(tuned)


def autocast(dtype: str, model: Any) -> torch.autocast:
    """bfloat16 products, or none."""
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16, enabled=dtype == "bfloat16")
