"""Does meta-learning help? A fresh theta and alpha for mini against the same step without it.

    python benchmarks/bench_meta_init.py --train train.jsonl.gz --dev dev.jsonl.gz \
        --minutes 4 --seeds 0,1,2 --threads 1 --out runs/meta_init

For each seed, with mini frozen as it is shipped:

    ft      a task-tuned LoRA of the same layout, trained blind for the same time
    meta    theta and alpha from a fresh start, meta-trained for that time

and then, on N questions about development passages (one a passage; its articles are never trained
on), the blind answer loss and F1 of: the base model, ft alone, ftsimada (ft and one plain gradient
step on the passage, its lr chosen on set-aside training tasks), meta (own passage), shift (another
one's) and random gradients of equal norms. 95 % bootstrap intervals over questions; over seeds, of
each question's mean over seeds.

--minutes are of processor time: a few steps of each training are timed first, and both then run for
as many steps as fit, so that what else the machine does changes nothing. What is done for a seed
stays in --out, so the run may be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import greedy_answers
from adapterdb.evaluation.metrics import squad_em, squad_f1
from adapterdb.layout import plan_layout
from adapterdb.training.finetune import FinetuneSettings, answer_sequences, finetune
from adapterdb.training.meta.controls import Answering, ControlSettings, ModeResult, run_controls
from adapterdb.training.meta.inner_step import InnerStep
from adapterdb.training.meta.objective import MetaInitSettings
from adapterdb.training.meta.run import train_meta_init
from adapterdb.training.presets import load_preset
from adapterdb.training.schedule import Progress
from adapterdb.training.start import base_weight
from adapterdb.training.tasks import Task, read_tasks

MODES = ("direct", "ft", "ftsimada", "meta", "shift", "random")
PLAIN_LRS = (2e-4, 2e-2, 0.1, 0.3, 1.0)
TIMED = 5  # steps
CHARS = 300  # passages are cut to a window around an answer for training
ASIDE = 64  # training articles' passages that are set aside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="tasks, JSON Lines (.gz)")
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/meta_init"))
    parser.add_argument("--minutes", type=float, default=4.0, help="of each training run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ft-lr", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    base = load_base_model("mini", dtype="float32")
    preset = load_preset(MetaInitSettings, "meta-init", "meta-mini")
    adapted = AdaptedModel(base.model, plan_layout(preset.lora, base.linears()))
    dev = one_a_passage(read_tasks(options.dev), options.questions)
    results = []
    for seed in (int(seed) for seed in options.seeds.split(",")):
        file = options.out / f"seed{seed}.json"
        if not file.is_file():
            settings = replace(preset, seed=seed, minutes=0.0, evaluate_every=40)
            file.write_text(json.dumps(of_seed(base, adapted, dev, settings, options)))
        results.append(json.loads(file.read_text()))
        print(f"\nseed {seed}\n{table([results[-1]])}", flush=True)
    print(f"\n{len(results)} seeds, {len(dev)} questions\n{table(results)}")
    print(differences(results))
    (options.out / "summary.json").write_text(json.dumps(summary(results), indent=1))


def of_seed(
    base: BaseModel,
    adapted: AdaptedModel,
    dev: Sequence[Task],
    settings: MetaInitSettings,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train both starts with one seed, and run every mode on ``dev``."""
    seed = settings.seed
    tasks = cut_tasks(read_tasks(options.train), random.Random(seed))
    aside, learned = split_off(tasks, ASIDE)
    theta = base_weight(adapted.layout, seed=seed).theta
    tuning = FinetuneSettings(
        "ft", lora=settings.lora, lr=options.ft_lr, batch=64, at_once=64, clip=1.0,
        evaluate_every=100, seed=seed,
    )  # fmt: skip
    questions = answer_sequences(learned, base.encoder)

    def tune(steps: int, held_out: Sequence[Task], progress: Any) -> Tensor:
        return finetune(
            adapted, questions, replace(tuning, max_steps=steps), theta,
            held_out=answer_sequences(held_out, base.encoder), on_progress=progress,
        ).row  # fmt: skip

    def meta(steps: int, held_out: Sequence[Task], progress: Any, file: Path | None) -> Any:
        return train_meta_init(
            adapted, base.encoder, learned, held_out, replace(settings, max_steps=steps),
            on_progress=progress, checkpoint=file,
        )  # fmt: skip

    with base.fitting_precision():
        counts = options.out / "steps.json"
        if not counts.is_file():
            watches = Stopwatch(), Stopwatch()
            tune(TIMED, (), watches[0])
            meta(TIMED, (), watches[1], None)
            steps = [round(60 * options.minutes / watch.seconds) for watch in watches]
            counts.write_text(json.dumps(dict(zip(("ft", "meta"), steps, strict=True))))
        steps_of = json.loads(counts.read_text())
        print("steps", steps_of, flush=True)
        ft_file = options.out / f"ft{seed}.safetensors"
        if not ft_file.is_file():
            row = tune(steps_of["ft"], aside, Log(f"ft {seed}"))
            save_file({"row": row}, ft_file)
        ft = load_file(ft_file)["row"]
        checkpoint = options.out / f"meta{seed}.safetensors"
        made = meta(steps_of["meta"], aside, Log(f"meta {seed}"), checkpoint)
    inner = InnerStep(passages=1, max_context=settings.inner.max_context)
    lrs = {lr: plain_nll(base, adapted, aside, ft, lr, inner) for lr in PLAIN_LRS}
    best = min(lrs, key=lambda lr: lrs[lr])
    how = ControlSettings(inner=inner, ftsimada_lr=best, seed=seed, at_once=20)
    found = run_controls(
        adapted, base.encoder, dev, MODES, how,
        start=made.start, ft=ft, answering=answering(base, adapted),
    )  # fmt: skip
    return {
        "seed": seed,
        "minutes": options.minutes,
        "steps": steps_of,
        "questions": len(dev),
        "base": base.fingerprint,
        "ftsimada_lr": best,
        "ftsimada_lrs": {str(lr): nll for lr, nll in lrs.items()},
        "meta": {**made.facts, "curve": made.curve},
        "alpha": sorted({round(float(a), 4) for a in made.start.alpha}),
        "modes": {mode: plain(result) for mode, result in found.items()},
    }


def plain_nll(
    base: BaseModel, adapted: AdaptedModel, tasks: Sequence[Task], ft: Tensor, lr: float,
    inner: InnerStep,
) -> float:  # fmt: skip
    """Answer loss of ftsimada with that lr on set-aside training tasks."""
    how = ControlSettings(inner=inner, ftsimada_lr=lr)
    result = run_controls(adapted, base.encoder, tasks, ["ftsimada"], how, ft=ft)
    return result["ftsimada"].mean("nll")


def answering(base: BaseModel, adapted: AdaptedModel) -> Answering:
    """Greedy blind answers of the base model under rows."""
    said = partial(greedy_answers, adapted, base.encoder)
    return Answering(said, {"f1": squad_f1, "em": squad_em})


def one_a_passage(tasks: Sequence[Task], count: int) -> list[Task]:
    """The first question of passages drawn from all of the file with a fixed seed."""
    first: dict[Any, Task] = {}
    for task in tasks:
        first.setdefault(task.passages, task)
    chosen = sorted(random.Random(0).sample(range(len(first)), min(count, len(first))))
    every = list(first.values())
    return [every[i] for i in chosen]


def cut_tasks(tasks: Sequence[Task], rng: random.Random) -> list[Task]:
    """Passages cut to a window around one of their answers, with the questions it answers."""
    asked: dict[Any, list[Task]] = {}
    for task in tasks:
        asked.setdefault(task.passages, []).append(task)
    found = []
    for ((title, text),), group in asked.items():
        task = rng.choice(group)
        at = max(0, text.find(task.answer))
        first = max(0, at + len(task.answer) // 2 - rng.randint(CHARS // 3, 2 * CHARS // 3))
        first = text.rfind(" ", 0, first) + 1 if first else 0
        end = text.find(" ", first + CHARS)
        piece = text[first : None if end < 0 else end]
        own = [t for t in group if t.answer in piece]
        found += [replace(t, passages=((title, piece),), gold=(0,)) for t in own]
    return found


def split_off(tasks: Sequence[Task], count: int) -> tuple[list[Task], list[Task]]:
    """The first question of the last ``count`` articles' last passages, and the other articles."""
    titles = list(dict.fromkeys(task.passages[0][0] for task in tasks))
    kept_out = set(titles[-count:])
    aside = {t.passages[0][0]: t for t in reversed(tasks) if t.passages[0][0] in kept_out}
    return list(aside.values()), [t for t in tasks if t.passages[0][0] not in kept_out]


def plain(result: ModeResult) -> dict[str, list[float]]:
    return {"nll": list(result.nll), **{k: list(v) for k, v in result.scores.items()}}


def values(results: Sequence[dict[str, Any]], mode: str, measure: str) -> Tensor:
    """Of each question, the mean over seeds ``(N,)``."""
    return torch.tensor([r["modes"][mode][measure] for r in results], dtype=torch.float64).mean(0)


def interval(x: Tensor) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval over questions (10,000 draws)."""
    generator = torch.Generator().manual_seed(0)
    drawn = x[torch.randint(len(x), (10_000, len(x)), generator=generator)].mean(1).sort().values
    return float(x.mean()), float(drawn[249]), float(drawn[9749])


def show(x: Tensor, factor: float, digits: int) -> str:
    mean, low, high = (factor * v for v in interval(x))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: loss (nats per answer token), F1 and EM (percent) of every mode."""
    rows = ["| mode | answer NLL | F1 | EM |", "|---|---|---|---|"]
    for mode in MODES:
        nll, f1, em = (values(results, mode, m) for m in ("nll", "f1", "em"))
        rows.append(f"| {mode} | {show(nll, 1, 3)} | {show(f1, 100, 1)} | {show(em, 100, 1)} |")
    return "\n".join(rows)


def differences(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: paired differences of meta from the others."""
    rows = ["\n| meta minus | answer NLL | F1 |", "|---|---|---|"]
    for mode in MODES:
        nll, f1 = (values(results, "meta", m) - values(results, mode, m) for m in ("nll", "f1"))
        if mode != "meta":
            rows.append(f"| {mode} | {show(nll, 1, 3)} | {show(f1, 100, 1)} |")
    return "\n".join(rows)


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals over all seeds, and of each."""
    sets = {"all": results, **{str(r["seed"]): [r] for r in results}}
    return {
        name: {
            mode: {m: interval(values(some, mode, m)) for m in ("nll", "f1", "em")}
            for mode in MODES
        }
        for name, some in sets.items()
    }


class Stopwatch:
    """Processor seconds of a step, the first and the last (which is followed by more) left out."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, _: Progress) -> None:
        """Called after every step."""
        self.at.append(time.process_time())

    @property
    def seconds(self) -> float:
        """The mean."""
        return (self.at[-2] - self.at[0]) / (len(self.at) - 2)


class Log:
    """Prints a line for every evaluation, and one a minute."""

    def __init__(self, name: str) -> None:
        self.name, self.began, self.last = name, time.monotonic(), time.monotonic()

    def __call__(self, at: Progress) -> None:
        """Called after every step."""
        now = time.monotonic()
        if at.held_out is None and now - self.last < 60:
            return
        self.last = now
        held_out = f" held out {at.held_out}" if at.held_out else ""
        minutes = (now - self.began) / 60
        print(
            f"{self.name} {minutes:.1f} min step {at.step} loss {at.loss:.3f}{held_out}", flush=True
        )


if __name__ == "__main__":
    main()
