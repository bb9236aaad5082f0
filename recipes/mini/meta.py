"""Stage 2: train theta*, alpha and the upper layers so that one gradient step teaches a passage.

The ReGrad objective: one inner step per passage at theta on its language-model loss, a weighted
sum of such gradients, the answer loss of the blind question after it; differentiated through the
step. Mixed in: the same with the passage in the prompt, plain reading and guessing without any
delta, and a term that keeps an unrelated delta from changing other text. The lower layers and the
embeddings stay as they are. Starts from `reader.pt`; `--minutes` in resumable pieces.

    python -m recipes.mini.meta --minutes 37.5
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder
from recipes.mini.corpus import Corpus
from recipes.mini.examples import Sampler
from recipes.mini.network import ADAPTED_LAYERS, RANK, TARGETS, TRAINED_LAYERS, Decoder, mini_layout
from recipes.mini.objective import answer_loss, drift, gradients, label_states, losses
from recipes.mini.optimizer import MasterOptimizer
from recipes.mini.prepare import DEFAULT_RUN
from recipes.mini.prompts import Mask, training_prompts
from recipes.mini.reader import batch_loss
from recipes.mini.schedule import Budget, load, save
from recipes.mini.start import base_tokenizer, earlier, skeleton
from recipes.mini.tasks import Padded, blind, context, documents, draw_tasks, mixtures, plain
from recipes.mini.vocabulary import Vocabulary

# Weights of the loss's terms.
BLIND, CONTEXT, PLAIN, DRIFT = 1.0, 2.0, 2.0, 2.0
DRIFT_TEXTS, DRIFT_LABELS = 8, 384
INNER_WORDS = 1000, 600  # commonest words and others in the inner loss, which is over every token
B_START = 0.02  # standard deviation of B; with B = 0 the gradient of A would be exactly zero


class MetaInit(nn.Module):
    """theta `[P]` and positive step sizes alpha `[P]` of a layout.

    alpha is the product of one number for every A and every B, which can move fast, and one for
    every entry (Meta-SGD, Li et al., 2017).
    """

    def __init__(self, layout: DeltaLayout, alpha: float) -> None:
        super().__init__()
        self.layout = layout
        start = torch.empty(layout.size)
        index = torch.empty(layout.size, dtype=torch.long)
        for a, b in layout.views(start):
            a.normal_(0, a.shape[-1] ** -0.5)
            b.normal_(0, B_START)
        for number, (a, b) in enumerate(layout.views(index)):
            a.fill_(2 * number)
            b.fill_(2 * number + 1)
        self.theta = nn.Parameter(start)
        self.log_alpha = nn.Parameter(torch.full((2 * len(layout.sites),), alpha).log())
        self.log_ratio = nn.Parameter(torch.zeros(layout.size))
        self.tensor_of = nn.Buffer(index, persistent=False)

    @property
    def alpha(self) -> Tensor:
        """Step sizes, one for every number of a row; `[P]`."""
        return (self.log_alpha[self.tensor_of] + self.log_ratio).exp()

    def load_file(self, path: Path) -> None:
        """Go on from a shipped meta-init.

        Raises:
            SystemExit: if it is of another layout.
        """
        with safe_open(path, "pt") as file:
            if file.metadata()["fingerprint"] != self.layout.fingerprint:
                raise SystemExit(
                    f"{path} has another layout; give its --rank, --upper-layers, --targets"
                )
            theta, alpha = file.get_tensor("theta"), file.get_tensor("alpha")
        with torch.no_grad():
            self.theta.copy_(theta)
            for number in range(len(self.log_alpha)):
                self.log_alpha[number] = alpha[self.tensor_of == number].log().mean()
            self.log_ratio.copy_(alpha.log() - self.log_alpha[self.tensor_of])

    def rows(self, count: int) -> Tensor:
        """Theta in `count` rows, `[G, P]`, so that every passage gets its own gradient."""
        return self.theta.expand(count, -1).contiguous()

    def adapted(self, mixed: Tensor) -> Tensor:
        """Theta - alpha * mixed, for mixed gradients `[G, P]`."""
        return self.theta - self.alpha * mixed


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description="stage 2 of mini: learning to be adapted")
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--minutes", type=float, default=40, help="budget, over all pieces")
    parser.add_argument("--piece-minutes", type=float, help="stop this piece early")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=16, help="passages a step")
    parser.add_argument("--questions", type=int, default=4, help="blind questions a passage")
    parser.add_argument("--plain", type=int, default=12, help="reading examples a step")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--upper-layers", type=int, default=ADAPTED_LAYERS, help="adapted")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--trained-layers", type=int, default=TRAINED_LAYERS)
    parser.add_argument("--lr", type=float, default=3e-4, help="AdamW: biases and norms")
    parser.add_argument("--matrix-lr", type=float, default=4e-4, help="Muon: the layers' matrices")
    parser.add_argument("--theta-lr", type=float, default=1e-3)
    parser.add_argument("--alpha", type=float, default=2.0, help="step sizes at the start")
    parser.add_argument("--alpha-lr", type=float, default=2e-2, help="of their logarithms")
    parser.add_argument("--ratio-lr", type=float, default=3e-3, help="of each entry's")
    parser.add_argument("--start", type=Path, help="shipped folder to go on from, not reader.pt")
    parser.add_argument("--meta-init", type=Path, help="theta and alpha to begin with, a file")
    parser.add_argument(
        "--curriculum", type=float, default=0.0, help="how far pieces have grown at the start, 0..1"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="of branches, in answering")
    parser.add_argument("--mask", type=float, default=0.0, help="share of prompt tokens hidden")
    parser.add_argument(
        "--unasked", type=float, default=0.0, help="share of passages that are plain text"
    )
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--probe-tasks", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="for tests")
    train(parser.parse_args(arguments))


def train(options: argparse.Namespace) -> None:
    """Train from `reader.pt` or on from `meta.pt` in the run folder, and write the latter.

    With `--start` it begins from the weights and the meta-init of a shipped folder. The checkpoint
    with the lowest blind answer loss on the set-aside articles is kept beside it as `best.pt`.
    """
    torch.set_num_threads(options.threads)
    path = options.run / "meta.pt"
    state = load(path) or {"step": 0, "spent_s": 0.0, "curve": []}
    torch.manual_seed(options.seed + state["step"])
    rng = random.Random(options.seed + state["step"])
    model = skeleton(options.tiny)
    layout = mini_layout(model, options.rank, options.upper_layers, options.targets)
    meta = MetaInit(layout, options.alpha)
    if "model" in state:
        model.load_state_dict(state["model"])
        meta.load_state_dict(state["meta"])
    elif options.start is not None:
        model = earlier(options.start)
        meta.load_file(options.start / "meta_init.safetensors")
    elif (reader := load(options.run / "reader.pt")) is not None:
        model.load_state_dict(reader["model"])
        if options.meta_init is not None:
            meta.load_file(options.meta_init)
    else:
        raise SystemExit(f"{options.run / 'reader.pt'} is missing; run recipes.mini.reader first")
    model.to(options.device)
    meta.to(options.device)
    decoder = Decoder(model, layout, options.trained_layers)
    step_of = Step(decoder, meta, options, rng)
    if "optimizer" in state:
        step_of.optimizer.load_state_dict(state["optimizer"])

    aside = Corpus(options.run / "data", held_out=True)
    budget = Budget(options.minutes, state["spent_s"])
    stop_s = budget.spent_s + 60 * (options.piece_minutes or options.minutes)
    step, curve, saved = state["step"], state["curve"], time.monotonic()
    best = min((entry["own"] for entry in curve if "own" in entry), default=float("inf"))
    window: list[dict[str, float]] = []
    done = False
    while not done:
        window.append(step_of.run(budget.progress, budget.factor))
        step += 1
        done = budget.progress >= 1 or budget.spent_s >= stop_s
        if len(window) == 20 or done:
            entry = {"step": step, "minutes": round(budget.spent_s / 60, 2)}
            entry |= {k: round(sum(w[k] for w in window) / len(window), 3) for k in window[0]}
            window = []
            print(json.dumps(entry), flush=True)
            curve.append(entry)
        if time.monotonic() - saved > 60 * options.save_minutes or done:
            entry = {"step": step, "minutes": round(budget.spent_s / 60, 2)}
            entry |= probe(decoder, meta, aside, step_of.prompts, options.probe_tasks)
            print(json.dumps(entry), flush=True)
            curve.append(entry)
            now = {
                "model": step_of.optimizer.weights(),
                "meta": meta.state_dict(),
                "layout": json.dumps(layout.to_dict()),
                "step": step,
                "spent_s": budget.spent_s,
                "curve": curve,
            }
            save(path, now | {"optimizer": step_of.optimizer.state_dict()})
            if entry["own"] < best:
                best = entry["own"]
                save(options.run / "best.pt", now)
            saved = time.monotonic()


class Step:
    """One optimisation step over a batch of passages."""

    def __init__(
        self,
        decoder: Decoder,
        meta: MetaInit,
        options: argparse.Namespace,
        rng: random.Random,
    ) -> None:
        self.decoder, self.meta, self.options, self.rng = decoder, meta, options, rng
        self.prompts = training_prompts()
        self.corpus = Corpus(options.run / "data")
        self.mask = Mask(base_tokenizer(), options.mask, rng)
        self.sampler = Sampler(self.corpus, self.prompts, rng, self.mask, options.unasked / 2)
        self.device = torch.device(options.device)
        upper = tuple(f"bert.encoder.layer.{n}." for n in range(decoder.split, len(decoder.layers)))
        trained = [
            name
            for name, _ in decoder.model.named_parameters()
            if name.startswith((*upper, "cls.predictions.transform."))
        ]
        more = [
            (meta.theta, options.theta_lr),
            (meta.log_alpha, options.alpha_lr),
            (meta.log_ratio, options.ratio_lr),
        ]
        self.optimizer = MasterOptimizer(
            decoder.model, trained, options.lr, options.matrix_lr, more
        )

    def run(self, progress: float, factor: float) -> dict[str, float]:
        """Take one step; the terms of its loss.

        Args:
            progress: of training, 0..1.
            factor: of the peak learning rates.
        """
        options, decoder, meta = self.options, self.decoder, self.meta
        grown = options.curriculum + (1 - options.curriculum) * progress
        chars = self.rng.randint(300, 400 + int(500 * grown))
        tasks = draw_tasks(
            self.corpus, options.tasks, options.questions, chars, self.rng, options.unasked
        )
        pieces = [task.piece for task in tasks]
        docs = self._to(documents(self.prompts, pieces))
        asked = self._to(blind(self.prompts, [q for t in tasks for q in t.questions], self.mask))
        last = [task.questions[-1] for task in tasks]
        shown = self._to(context(self.prompts, last, pieces, self.mask))
        reading = [self.sampler.draw(1.0) for _ in range(options.plain)]
        reading += [self.sampler.recall() for _ in range(max(1, options.plain // 3))]
        texts = self.corpus.texts or [self.corpus.pieces[p] for p in self.corpus.passages]
        drawn = [self.rng.choice(texts) for _ in range(min(DRIFT_TEXTS, len(tasks)))]
        unrelated = self._to(plain(self.prompts, drawn))
        used = [batch.ids.flatten() for batch in (docs, asked, shown, unrelated)]
        used += [torch.tensor(example.ids, device=self.device) for example in reading]
        embedding = decoder.model.bert.embeddings.word_embeddings.weight
        some = Vocabulary(torch.cat(used).unique(), len(embedding))

        inner = Vocabulary(docs.ids.unique(), len(embedding), *INNER_WORDS)
        found = gradients(decoder, meta.rows(len(tasks)), docs, inner, second_order=True)
        rows = meta.adapted(mixtures(len(tasks), self.rng).to(self.device) @ found)
        dropout = options.dropout
        terms = {
            "blind": answer_loss(decoder, asked, rows, some, dropout),
            "context": answer_loss(decoder, shown, rows, some, dropout),
            "drift": drift(decoder, unrelated, rows[: len(drawn)], DRIFT_LABELS, some),
            "plain": batch_loss(decoder.model, reading, some, embedding[some.ids], dropout=dropout),
        }
        loss = (
            BLIND * terms["blind"]
            + CONTEXT * terms["context"]
            + DRIFT * terms["drift"]
            + PLAIN * terms["plain"]
        )
        loss.backward()
        norm = self.optimizer.step(factor)
        return {name: term.item() for name, term in terms.items()} | {"norm": norm}

    def _to(self, batch: Padded) -> Padded:
        return to(batch, self.device)


def probe(
    decoder: Decoder, meta: MetaInit, corpus: Corpus, prompts: PromptEncoder, count: int
) -> dict[str, float]:
    """Answer losses on set-aside passages, full vocabulary, always the same `count` tasks.

    Returns:
        Mean cross-entropy per answer token: `own` passage's delta, `shifted` (the delta of a
        passage `count / 2` further on), `none`, `read` (passage in the prompt, no delta),
        `hybrid` (both), and `drift`, the KL on the shifted passage's text.
    """
    rng = random.Random(0)
    tasks = draw_tasks(corpus, count, 2, 900, rng)
    device = meta.theta.device
    docs = to(documents(prompts, [task.piece for task in tasks]), device)
    asked = to(blind(prompts, [q for t in tasks for q in t.questions]), device)
    shown = to(context(prompts, [t.questions[0] for t in tasks], [t.piece for t in tasks]), device)
    rows = meta.adapted(gradients(decoder, meta.rows(count), docs, None, False)).detach()
    with torch.no_grad():
        shifted = rows.roll(count // 2, 0)
        texts = to(plain(prompts, [task.piece for task in tasks]), device)
        below = decoder.lower(texts.ids)
        text = [
            losses(decoder, label_states(decoder, below, texts, r), texts).mean()
            for r in (None, shifted)
        ]
        found = {
            "own": answer_loss(decoder, asked, rows),
            "shifted": answer_loss(decoder, asked, shifted),
            "none": answer_loss(decoder, asked, None),
            "read": answer_loss(decoder, shown, None),
            "hybrid": answer_loss(decoder, shown, rows),
            "text": text[0],
            "text_shifted": text[1],
        }
    return {name: round(value.item(), 3) for name, value in found.items()}


def to(batch: Padded, device: torch.device) -> Padded:
    """The batch on a device."""
    return Padded(*(tensor.to(device) for tensor in batch))


if __name__ == "__main__":
    main()
