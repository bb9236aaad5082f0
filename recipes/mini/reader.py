"""Stage 1: teach the decoder to read, to ask, to restate, and to say "unknown".

Loss on answer tokens (all tasks in one batch, a weight each); hidden states go through the output
embedding only where there is a label. Runs for `--minutes` in resumable pieces.

    python -m recipes.mini.reader --minutes 45
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertLMHeadModel

from recipes.mini.corpus import Corpus
from recipes.mini.examples import Example, Sampler, batches
from recipes.mini.network import layer_states
from recipes.mini.optimizer import MasterOptimizer
from recipes.mini.prepare import DEFAULT_RUN
from recipes.mini.prompts import Mask, training_prompts
from recipes.mini.schedule import Budget, load, save
from recipes.mini.start import base_tokenizer, earlier, minilm, skeleton
from recipes.mini.vocabulary import Vocabulary

WORDS = "bert.embeddings.word_embeddings.weight"  # also the output embedding


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description="stage 1 of mini: reading")
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--minutes", type=float, default=45, help="budget, over all pieces")
    parser.add_argument("--piece-minutes", type=float, help="stop this piece early")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro", type=int, default=32, help="sequences at once; the rest waits")
    parser.add_argument("--start", type=Path, help="model folder to begin from, not MiniLM")
    parser.add_argument(
        "--curriculum",
        type=float,
        default=0.0,
        help="how far windows have grown at the start, 0..1",
    )
    parser.add_argument("--lr", type=float, default=3e-4, help="AdamW: embeddings, vectors")
    parser.add_argument("--matrix-lr", type=float, default=5e-4, help="Muon: the layers' matrices")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the layers' branches")
    parser.add_argument("--mask", type=float, default=0.0, help="share of prompt tokens hidden")
    parser.add_argument(
        "--unasked", type=float, default=0.0, help="share of the reading that is on plain text"
    )
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="random two-layer model, for tests")
    train(parser.parse_args(arguments))


def train(options: argparse.Namespace) -> None:
    """Train from the start or from `reader.pt` in the run folder, and write it there."""
    torch.set_num_threads(options.threads)
    path = options.run / "reader.pt"
    state = load(path) or {"step": 0, "spent_s": 0.0, "curve": []}
    torch.manual_seed(options.seed + state["step"])
    if "model" in state or options.tiny:
        model = skeleton(options.tiny)
        model.load_state_dict(state.get("model", model.state_dict()))
    else:
        model = earlier(options.start) if options.start else minilm()
    reader = Reader(model.to(options.device), options.lr, options.matrix_lr, options.dropout)
    if "optimizer" in state:
        reader.optimizer.load_state_dict(state["optimizer"])

    budget = Budget(options.minutes, state["spent_s"])
    stop_s = budget.spent_s + 60 * (options.piece_minutes or options.minutes)
    rng = random.Random(options.seed + state["step"])
    mask = Mask(base_tokenizer(), options.mask, rng)
    sampler = Sampler(Corpus(options.run / "data"), training_prompts(), rng, mask, options.unasked)
    known = options.curriculum
    source = batches(sampler, options.batch, lambda: known + (1 - known) * budget.progress)
    curve: list[dict[str, Any]] = state["curve"]
    window: list[tuple[float, int]] = []
    step, saved, shown = state["step"], time.monotonic(), time.monotonic()
    done = False
    while not done:
        batch = next(source)
        loss = reader.step(batch, options.micro, budget.factor)
        window.append((loss, sum(len(example.ids) for example in batch)))
        step += 1
        done = budget.progress >= 1 or budget.spent_s >= stop_s
        if len(window) == 50 or done:
            entry = {
                "step": step,
                "minutes": round(budget.spent_s / 60, 2),
                "loss": round(sum(loss for loss, _ in window) / len(window), 4),
                "tokens_per_s": round(sum(n for _, n in window) / (time.monotonic() - shown)),
            }
            curve.append(entry)
            print(json.dumps(entry), flush=True)
            window, shown = [], time.monotonic()
        if time.monotonic() - saved > 60 * options.save_minutes or done:
            now = {"model": reader.optimizer.weights(), "step": step, "curve": curve}
            now |= {"optimizer": reader.optimizer.state_dict(), "spent_s": budget.spent_s}
            save(path, now)
            saved = time.monotonic()


class Reader:
    """A model in training, all of its weights.

    Args:
        model: in float32; becomes bfloat16.
        lr: peak learning rate of the embeddings, biases and norms.
        matrix_lr: of the layers' matrices.
        dropout: rate of the layers' branches.
    """

    def __init__(
        self, model: BertLMHeadModel, lr: float, matrix_lr: float, dropout: float = 0.0
    ) -> None:
        self.model, self.dropout = model.train(), dropout
        every = [name for name, _ in model.named_parameters()]
        self.optimizer = MasterOptimizer(model, every, lr, matrix_lr)

    def step(self, batch: Sequence[Example], micro: int, factor: float) -> float:
        """One optimisation step; the batch's loss.

        Args:
            batch: sequences.
            micro: how many of them at once; small parts stay in the cache.
            factor: of the peak learning rates.
        """
        embedding = self.model.bert.embeddings.word_embeddings.weight
        vocabulary = vocabulary_of(batch, embedding)
        words = embedding.detach()[vocabulary.ids].requires_grad_()
        total = sum(len(example.labels) * example.weight for example in batch)
        found = 0.0
        for at in range(0, len(batch), micro):
            part = batch_loss(
                self.model, batch[at : at + micro], vocabulary, words, total, self.dropout
            )
            part.backward()
            found += part.item()
        assert words.grad is not None
        master = self.optimizer.masters[WORDS]
        master.grad = torch.zeros_like(master)
        master.grad.index_copy_(0, vocabulary.ids, words.grad.float())
        self.optimizer.step(factor)
        return found


def vocabulary_of(batch: Sequence[Example], embedding: Tensor) -> Vocabulary:
    """The part of the vocabulary that a batch needs; `embedding [V, H]` says size and device."""
    used = sorted({0}.union(*(example.ids for example in batch)))
    return Vocabulary(torch.tensor(used, device=embedding.device), len(embedding))


def batch_loss(
    model: BertLMHeadModel,
    batch: Sequence[Example],
    vocabulary: Vocabulary,
    words: Tensor,
    total: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Weighted mean cross-entropy over the batch's labels; scalar, float32.

    Args:
        model: the decoder.
        batch: sequences.
        vocabulary: of these sequences at least.
        words: `[V, H]`, the embeddings of `vocabulary.ids`.
        total: weight the sum is divided by, that of a larger batch this is part of; None: its own.
        dropout: rate of the layers' branches.
    """
    longest = round_up(max(len(example.ids) for example in batch), 16)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    rows, places, targets, weights = [], [], [], []
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        rows += [row] * len(example.labels)
        places += [place - 1 for place in example.labels]
        targets += [example.ids[place] for place in example.labels]
        weights += [example.weight] * len(example.labels)
    idle = round_up(len(rows), 64) - len(rows)
    rows, places, targets = rows + [0] * idle, places + [0] * idle, targets + [0] * idle
    weights += [0.0] * idle
    device = words.device
    # Padding is on the right and attention causal, so no mask is needed.
    shown = functional.embedding(vocabulary.local(ids.to(device)), words)
    hidden = model.bert.embeddings(inputs_embeds=shown)
    *before, last = model.bert.encoder.layer
    for layer in before:
        hidden = layer_states(layer, hidden, dropout=dropout)
    labelled = torch.tensor(rows, device=device), torch.tensor(places, device=device)
    hidden = layer_states(last, hidden, kept=labelled, dropout=dropout)
    head = model.cls.predictions
    logits = functional.linear(head.transform(hidden), words, head.bias[vocabulary.ids]).float()
    losses = vocabulary.losses(logits, torch.tensor(targets, device=device))
    weight = torch.tensor(weights, device=device)
    return (losses * weight).sum() / (weight.sum() if total is None else total)


def round_up(count: int, step: int) -> int:
    """The next multiple of `step`: few distinct shapes keep the CPU's kernel cache warm."""
    return -(-count // step) * step


if __name__ == "__main__":
    main()
