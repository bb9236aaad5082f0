"""Token weights of CaMeLS against uniform, salient and TF-IDF ones, on passages never seen.

    python benchmarks/bench_camels.py --train train.jsonl.gz --dev dev.jsonl.gz --out camels.json

Base: the packaged mini, frozen. What is moved: LoRA rows from its shipped meta-init (theta*, with
the step sizes alpha that were meta-trained for uniform weights), one SGD step on each passage
alone: theta* - gamma * alpha * gradient of the weighted loss, as a gradient delta is stored. For
each seed the weighter is meta-trained on --train (preset camels-mini); gamma of every method is
swept on passages of --train that are set aside for it (weights of the baselines have mean 1 in
each passage, those of camels are as they were trained, times the preset's inner_lr). Reported on
--dev: loss of the answers to the passages' own questions after the step, blind (nats per answer
token; the mean of up to --questions a passage), SQuAD F1 of greedy answers to the first question,
and on every third passage the KL from before the step on a passage of other subject. 95 % bootstrap
intervals over passages; a negative difference in loss means that camels is better.
Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import greedy_answers
from adapterdb.evaluation.metrics import squad_f1
from adapterdb.training.camels.objective import lesson_of, locality_kl, passages_of, update
from adapterdb.training.camels.run import CamelsSettings, meta_train
from adapterdb.training.camels.space import Rows, State, leaves
from adapterdb.training.objective import TokenSequence, TrainingPassage
from adapterdb.training.presets import load_preset
from adapterdb.training.start import load_meta_init
from adapterdb.training.tasks import read_tasks
from adapterdb.training.weights.tfidf import fit_tfidf
from adapterdb.training.weights.weighter import weighter_of
from adapterdb.training.weights.weighting import Camels, Salient, TfidfWeigher, Uniform, Weigher

GAMMAS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
MEASURES = ("nll", "f1", "kl")


def shuffled(passages: Sequence[TrainingPassage], seed: int) -> list[TrainingPassage]:
    """The passages in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    return [passages[i] for i in torch.randperm(len(passages), generator=generator).tolist()]


class Bench:
    """One base model, and passages measured under one method and step after another."""

    def __init__(self, base: BaseModel, rows: Rows, questions: int) -> None:
        self.base, self.rows, self.questions = base, rows, questions
        self.settings = CamelsSettings(normalisation="valid_tokens", inner_lr=1.0)

    def direction(self, passage: TrainingPassage, weights: Sequence[float], scale: float) -> Tensor:
        """Where a step of 1 goes; weights times ``scale``, or with mean 1 where it is 0."""
        lesson = lesson_of(passage, self.base.encoder)
        own = torch.tensor([list(weights)])
        mean = own[0, 1:].mean().clamp(min=1e-8)
        scaled = own * scale if scale else own / mean
        start = leaves(self.rows.begin())
        (after,) = update(
            self.rows, start, [lesson.document], scaled, self.settings, create_graph=False
        )
        return (after - start[0]).detach()

    def at(self, direction: Tensor, gamma: float) -> State:
        """The row after a step of ``gamma``."""
        return (self.rows.begin()[0] + gamma * direction,)

    def nll(self, passage: TrainingPassage, state: State) -> float:
        """Mean answer loss of its first questions, each on its own."""
        lesson = lesson_of(passage, self.base.encoder)
        losses = [self.rows.loss(state, [q]) for q in lesson.questions[: self.questions]]
        return float(torch.stack(losses).mean())

    def answer(self, passage: TrainingPassage, state: State) -> str:
        """What is said to its first question, greedily."""
        prompt = self.base.encoder.blind(passage.qa[0][0])
        rows = state[0][None]
        return greedy_answers(self.rows.adapted, self.base.encoder, rows, [prompt])[0]

    def kl(self, state: State, text: TokenSequence) -> float:
        """How far the step moved predictions on a text that has nothing to do with it."""
        return float(locality_kl(self.rows, self.rows.begin(), state, [text]))


def sweep(
    bench: Bench, weigher: Weigher, aside: Sequence[TrainingPassage], scale: float
) -> dict[float, float]:
    """Mean answer loss on the set-aside passages for each gamma."""
    ways = [bench.direction(p, w, scale) for p, w in zip(aside, weigher(aside), strict=True)]
    return {
        gamma: sum(bench.nll(p, bench.at(way, gamma)) for p, way in zip(aside, ways, strict=True))
        / len(aside)
        for gamma in GAMMAS
    }


def measured(
    bench: Bench,
    weigher: Weigher,
    gamma: float,
    passages: Sequence[TrainingPassage],
    accepted: Sequence[Sequence[str]],
    locality: Sequence[TokenSequence],
    scale: float,
) -> dict[str, list[float]]:
    """Every measure of every passage."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i, (passage, weights) in enumerate(zip(passages, weigher(passages), strict=True)):
        state = bench.at(bench.direction(passage, weights, scale), gamma)
        found["nll"].append(bench.nll(passage, state))
        found["f1"].append(100 * squad_f1(bench.answer(passage, state), accepted[i]))
        if i % 3 == 0:
            found["kl"].append(bench.kl(state, locality[i % len(locality)]))
    return found


def interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval."""
    numbers = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(numbers), (draws, len(numbers)), generator=generator)
    means = numbers[picks].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(numbers.mean()), low, high


def shown(values: Sequence[float]) -> str:
    """``mean [low, high]``."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval(values))


def mean_of(runs: Sequence[Sequence[float]]) -> list[float]:
    """The mean over runs, for each passage."""
    return torch.tensor(runs, dtype=torch.float64).mean(0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=0.0, help="of meta-training, per seed")
    parser.add_argument("--steps", type=int, default=0, help="of meta-training, per seed")
    parser.add_argument("--recipe", default="camels-mini")
    parser.add_argument("--n", type=int, default=300, help="passages of --dev")
    parser.add_argument("--aside", type=int, default=48, help="passages of --train for the sweep")
    parser.add_argument("--valid", type=int, default=48, help="passages that choose the weighter")
    parser.add_argument("--questions", type=int, default=3, help="of a passage, for the loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = load_base_model("mini", device="cpu", dtype="float32")
    assert base.meta_init_path is not None
    layout, start = load_meta_init(base.meta_init_path)
    rows = Rows(AdaptedModel(base.model, layout), start, own_steps=True)
    bench = Bench(base, rows, options.questions)

    pool = shuffled(passages_of(read_tasks(options.train)), 7)
    aside, rest = pool[: options.aside], pool[options.aside :]
    valid, rest = rest[: options.valid], rest[options.valid :]
    texts, rest = [p.text for p in rest[:100]], rest[100:]
    dev_tasks = read_tasks(options.dev)
    answers = {(t.passages[t.gold[0]], t.question): t.answers for t in dev_tasks if t.gold}
    dev = shuffled(passages_of(dev_tasks), 11)[: options.n]
    accepted = [answers[(p.title, p.text), p.qa[0][0]] for p in dev]
    others = [TokenSequence(tuple(base.encoder.plain("", t)[:64])) for t in texts]

    def method(name: str, weigher: Weigher, scale: float = 0.0) -> dict[str, Any]:
        began = time.monotonic()
        swept = sweep(bench, weigher, aside, scale)
        gamma = min(swept, key=lambda each: swept[each])
        values = measured(bench, weigher, gamma, dev, accepted, others, scale)
        figures = {key: interval(values[key]) for key in MEASURES}
        print(f"{name}: gamma {gamma}, {figures}, {time.monotonic() - began:.0f} s", flush=True)
        return {"gamma": gamma, "swept": swept, "figures": figures, "values": values}

    table = fit_tfidf([p.text for p in rest[:4000]], base.encoder)
    weighers: dict[str, Weigher] = {
        "uniform": Uniform(base.encoder),
        "salient": Salient(base.encoder),
        "tfidf": TfidfWeigher(base.encoder, table),
    }
    found: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}}
    found["methods"] = {name: method(name, weigher) for name, weigher in weighers.items()}
    still = [bench.nll(p, rows.begin()) for p in dev]
    found["no step"] = interval(still)
    print(f"no step: nll {found['no step']}", flush=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        settings = replace(load_preset(CamelsSettings, "camels", options.recipe), seed=seed)
        if options.steps or options.minutes:
            settings = replace(settings, max_steps=options.steps, minutes=options.minutes)
        weighter = weighter_of(base.model, base.encoder, settings.weighter, seed=seed)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        made = meta_train(
            rows, weighter, base.encoder, rest, valid, texts, settings,
            checkpoint=options.out.with_suffix(f".seed{seed}.safetensors"),
            on_progress=lambda p: print(p.step, f"{p.loss:.3f}", p.held_out or "", flush=True),
        )  # fmt: skip
        key = f"camels seed {seed}"
        found["methods"][key] = method(key, Camels(base.encoder, made.weighter), settings.inner_lr)
        found["methods"][key] |= {"curve": made.curve, "facts": made.facts}
        report(found, seeds, options.out)
    print_table(found)


def report(found: dict[str, Any], seeds: Sequence[int], out: Path) -> None:
    """Add paired differences camels - each baseline, per seed and over seeds, and write all."""
    methods = found["methods"]
    runs = [f"camels seed {seed}" for seed in seeds if f"camels seed {seed}" in methods]
    found["differences"] = {}
    for baseline in ("uniform", "salient", "tfidf"):
        for key in MEASURES:
            right = torch.tensor(methods[baseline]["values"][key], dtype=torch.float64)
            each = {run: methods[run]["values"][key] for run in runs}
            each["camels, mean of seeds"] = mean_of(list(each.values()))
            for run, values in each.items():
                gap = (torch.tensor(values, dtype=torch.float64) - right).tolist()
                found["differences"][f"{run} - {baseline}: {key}"] = interval(gap)
    out.write_text(json.dumps(found, default=_plain))


def print_table(found: dict[str, Any]) -> None:
    """The methods, and what camels gains over uniform."""
    print("| weights | gamma | answer loss, nats | F1 | locality KL |\n|---|---|---|---|---|")
    for name, row in found["methods"].items():
        cells = [shown(row["values"][key]) for key in MEASURES]
        print(f"| {name} | {row['gamma']} | " + " | ".join(cells) + " |")
    print("\n| paired difference | mean [95 %] |\n|---|---|")
    for name, row in found["differences"].items():
        print("| {} | {:+.3f} [{:+.3f}, {:+.3f}] |".format(name, *row))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else str(value)


if __name__ == "__main__":
    main()
