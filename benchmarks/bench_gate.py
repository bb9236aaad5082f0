"""Gates over per-task deltas of mini: questions of one task, and 3 and 5 of several in one prompt.

    python benchmarks/bench_gate.py DATA

Ten tasks with short inputs. On their training questions alone: one delta each, one delta of all
(as many steps as the ten together), a learned gate over the frozen ten, and Arrow's top_k and
temperature, chosen by the training questions that are set aside. Reported on test questions: those
of one task, and composites of 3 and 5 tasks, each question directly followed by its right answer
("turns"), which asks a gate to change deltas within the text. An answer counts as right if every
token of it is the likeliest; nats are its whole negative log-probability. ``own delta`` reads the
text with the delta of the question that is judged, for each question anew: the oracle. ``added
later``: each task in turn as if the gate had never seen its delta, so that its prototype stands in
for it. Intervals: 95 %, bootstrap over prompts. ``at once``: all questions first, one generation
for all answers (MeteoRA's form), scored by ``training.gate.composite``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bootstrap import interval
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel, Factors
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.kernels import Gated, TokenGate
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.prototype import cores
from adapterdb.training.finetune import FinetuneSettings, answer_sequences, finetune
from adapterdb.training.gate.bank import GateBank
from adapterdb.training.gate.calibration import arrow_scales
from adapterdb.training.gate.composite import (
    AskedSequence,
    Composite,
    compose,
    composite_sequence,
    score,
)
from adapterdb.training.gate.objective import GateSettings, factors_of, routed_sequences
from adapterdb.training.gate.run import Expert, GateResult, train_gate
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.presets import load_preset
from adapterdb.training.schedule import spread
from adapterdb.training.start import base_weight
from adapterdb.training.tasks import Task, read_tasks, set_aside

TASKS = {
    "cl_tasks": ("SST-2", "QQP", "agnews", "COPA", "MNLI"),
    "scitasks": ("sci-cite", "sciie-relation-extraction", "chemprot"),
    "bbh": ("boolean_expressions", "hyperbaton"),
}
LONGEST = 48  # tokens of a question, so that a run takes minutes
PER_TASK = 600  # training questions
LR = 3e-3  # of deltas: better than 1e-3 in so few steps, by the set-aside questions of agnews
# name, top_k, questions in a training text: half as many of those make a step of as many questions
GATES = (("gate k=1", 1, 1), ("gate k=2", 2, 1), ("gate k=2 turns", 2, 3))
ARROW = [(k, t) for k in (1, 2) for t in (0.3, 1.0, 3.0)]  # of which one is chosen


class Method(NamedTuple):
    """Something that answers: factors with a gate or without, or every question's own delta."""

    name: str
    factors: Factors | None = None
    scale: float = 1.0
    gates: Sequence[TokenGate] | None = None
    own: Tensor | None = None  # (N, P)


class Judged(NamedTuple):
    """Of each prompt its questions: answered right (0 or 1), and the nats of the right answer."""

    right: list[list[float]]
    nats: list[list[float]]
    routed: list[float]  # share of positions before an answer token, by site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60, help="of a delta")
    parser.add_argument("--gate-steps", type=int, default=120)
    parser.add_argument("--singles", type=int, default=40, help="test questions of a task")
    parser.add_argument("--composites", type=int, default=100, help="prompts of 3 and of 5")
    parser.add_argument("--said", type=int, default=12, help="composites that are generated")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    base = load_base_model("mini")
    adapted = AdaptedModel(base.model, plan_layout(LoraSpec(16, 32.0, layers="upper-half"),
                                                   base.linears()))  # fmt: skip
    learned, aside, test = read_sets(options.data, base)
    names = sorted({task.task for task in learned})
    with base.fitting_precision():
        rows, mixture = fit_deltas(adapted, base, names, learned, aside, options)
        gates = fit_gates(adapted, base, names, rows, learned, aside, options)
    methods, arrow = make_methods(adapted, base, names, rows, mixture, gates, aside)
    sets = make_sets(base, names, test, options)
    results: dict[str, Any] = {}
    for title, asked in sets.items():
        print(f"\n{title}: {len(asked)} prompts of {len(asked[0].spans)}", flush=True)
        results[title] = judge_all(adapted, asked, methods)
    results["singles"]["gate, added later"] = added_later(
        adapted, base, names, rows, gates["gate k=2"], sets["singles"], learned
    )
    results["at once"] = said_at_once(adapted, base, methods, test, options)
    facts = {
        "tasks": names, "steps": options.steps, "seed": options.seed, "arrow": arrow,
        "learned": len(learned), "test": len(test), "seconds": round(time.perf_counter() - began),
        "fingerprint": base.fingerprint, "gate": gates["gate k=2"].facts,
    }  # fmt: skip
    print(json.dumps({"benchmark": "gate", **facts, "results": results}))


def read_sets(data: Path, base: BaseModel) -> tuple[list[Task], list[Task], list[Task]]:
    """Questions to learn from, others to choose by, and those that are reported on."""
    short = [
        task
        for folder, names in TASKS.items()
        for task in read_tasks(data / folder / "examples.jsonl.gz", with_passages=False)
        if task.task in names and len(base.encoder.text(task.question)) <= LONGEST
    ]
    train = [task for task in short if task.part == "train"]
    asked = {task.question for task in train}
    test = [task for task in short if task.part == "test" and task.question not in asked]
    capped = [t for name in {t.task: 0 for t in train} for t in of_task(train, name)[:PER_TASK]]
    learned, aside = set_aside(capped, 0.08, 0)
    return learned, aside, test


def of_task(tasks: Sequence[Task], name: str) -> list[Task]:
    """The examples of one task."""
    return [task for task in tasks if task.task == name]


def fit_deltas(
    adapted: AdaptedModel,
    base: BaseModel,
    names: Sequence[str],
    learned: Sequence[Task],
    aside: Sequence[Task],
    options: argparse.Namespace,
) -> tuple[Tensor, Tensor]:
    """A delta of each task ``(N, P)``, and one ``(P,)`` of all in as many steps together."""
    settings = load_preset(FinetuneSettings, "finetune", "ft")
    settings = replace(settings, lr=LR, seed=options.seed, evaluate_on=80)
    theta = base_weight(adapted.layout, seed=options.seed).theta

    def fit(tasks: Sequence[Task], others: Sequence[Task], steps: int) -> Tensor:
        sets = [answer_sequences(t, base.encoder) for t in (tasks, others)]
        seen = set(sets[0])
        how = replace(settings, max_steps=steps, evaluate_every=max(10, steps // 3))
        held = [sequence for sequence in sets[1] if sequence not in seen]
        return finetune(adapted, sets[0], how, theta, held_out=held).row

    rows = []
    for name in names:
        since = time.perf_counter()
        rows.append(fit(of_task(learned, name), of_task(aside, name), options.steps))
        print(f"delta {name}: {time.perf_counter() - since:.0f} s", flush=True)
    since = time.perf_counter()
    mixture = fit(learned, aside, options.steps * len(names))
    print(f"delta of all: {time.perf_counter() - since:.0f} s", flush=True)
    return torch.stack(rows), mixture


def fit_gates(
    adapted: AdaptedModel,
    base: BaseModel,
    names: Sequence[str],
    rows: Tensor,
    learned: Sequence[Task],
    aside: Sequence[Task],
    options: argparse.Namespace,
) -> dict[str, GateResult]:
    """Gates over the frozen deltas: top_k 1 and 2 as MeteoRA's, and one that saw tasks change."""
    experts = [Expert(name, name, row) for name, row in zip(names, rows, strict=True)]
    found = {}
    for name, k, turns in GATES:
        settings = load_preset(GateSettings, "gate", "gate-mini")
        settings = replace(settings, top_k=k, turns=turns, max_steps=options.gate_steps,
                           batch=settings.batch if turns == 1 else settings.batch // 2,
                           seed=options.seed, evaluate_on=80,
                           evaluate_every=options.gate_steps // 2)  # fmt: skip
        result = train_gate(adapted, base.encoder, experts, learned, aside, settings)
        found[name] = result
        print(f"{name}: {result.facts['minutes']} min, {result.curve[-1]}", flush=True)
    return found


def make_methods(
    adapted: AdaptedModel,
    base: BaseModel,
    names: Sequence[str],
    rows: Tensor,
    mixture: Tensor,
    gates: dict[str, GateResult],
    aside: Sequence[Task],
) -> tuple[list[Method], dict[str, float]]:
    """Everything that is compared, and what was chosen for Arrow on the set-aside questions."""
    layout, factors = adapted.layout, factors_of(adapted.layout, rows)
    scale, own = layout.scale, cores(adapted.layout, rows)
    arrows = {(k, t): Method("arrow", factors, scale, arrow_gates(own, k, t)) for k, t in ARROW}
    choosing = singles(spread(aside, 100), names, base)
    nats = {key: mean(judge(adapted, choosing, method).nats) for key, method in arrows.items()}
    best = min(nats, key=lambda key: nats[key])

    def gated(name: str, temperature: float) -> list[TokenGate]:
        return gates[name].bank.token_gates(layout, names, temperature=temperature)

    mixed = factors_of(layout, mixture[None])
    return [
        Method("base"),
        Method("mean", factors, scale / len(names)),
        Method("one delta of all", mixed, scale),
        Method(f"arrow k={best[0]} T={best[1]:g}", factors, scale, arrow_gates(own, *best)),
        *(Method(name, factors, scale, gated(name, 1.0)) for name in gates),
        Method("gate k=2 T=5", factors, scale, gated("gate k=2", 5.0)),
        Method("gate k=2 T=20", factors, scale, gated("gate k=2", 20.0)),
        Method("own delta", own=rows),
    ], {f"k={k} T={t:g}": value for (k, t), value in nats.items()}


def arrow_gates(own: Tensor, k: int, temperature: float) -> list[TokenGate]:
    """Arrow's gates over all deltas, from their cores ``(N, sites, R)``."""
    n = len(own)
    return [
        TokenGate(
            torch.ones(1, n, dtype=torch.bool), torch.zeros(1, dtype=torch.bool),
            torch.tensor([k]), torch.tensor([temperature]), own[None, :, site],
        )
        for site in range(own.shape[1])
    ]  # fmt: skip


def make_sets(
    base: BaseModel, names: Sequence[str], test: Sequence[Task], options: argparse.Namespace
) -> dict[str, list[AskedSequence]]:
    """What is reported on: as many questions of each task, and composites."""
    few = [t for name in names for t in spread(of_task(test, name), options.singles)]
    places = {name: place for place, name in enumerate(names)}
    found = {"singles": singles(few, names, base)}
    for n in (3, 5):
        composites = compose(test, n, options.composites, seed=options.seed)
        made = [composite_sequence(c, base.encoder, places, "turns") for c in composites]
        found[f"composite-{n}"] = [a for a in made if len(a.sequence.ids) <= 512]
    return found


def singles(tasks: Sequence[Task], names: Sequence[str], base: BaseModel) -> list[AskedSequence]:
    """Questions alone."""
    places = {name: place for place, name in enumerate(names)}
    return [composite_sequence(Composite(t.id, (t,)), base.encoder, places, "turns") for t in tasks]


def judge_all(
    adapted: AdaptedModel, asked: Sequence[AskedSequence], methods: Sequence[Method]
) -> dict[str, Any]:
    """Every method on the same prompts, printed."""
    print(f"{'':22} {'right %':>8} {'95 %':>14} {'nats':>7} {'95 %':>14}   routed % by site")
    found = {}
    reference: Judged | None = None
    for method in methods:
        judged = judge(adapted, asked, method)
        reference = judged if method.name == "one delta of all" else reference
        found[method.name] = summary = summarize(judged, reference)
        right, nats = summary["right"], summary["nats"]
        sites = " ".join(f"{100 * x:.0f}" for x in judged.routed)
        print(
            f"{method.name:22} {right[0]:8.1f} {right[1]:6.1f}..{right[2]:<6.1f} {nats[0]:7.3f}"
            f" {nats[1]:6.3f}..{nats[2]:<6.3f}   {sites}", flush=True,
        )  # fmt: skip
    return found


def summarize(judged: Judged, reference: Judged | None) -> dict[str, Any]:
    """Means with intervals; also of the difference to one delta of all, prompt by prompt."""
    right = 100 * _by_prompt(judged.right)
    found: dict[str, Any] = {
        "right": _rounded(right), "nats": _rounded(_by_prompt(judged.nats)), "routed": judged.routed
    }  # fmt: skip
    if reference is not None:
        found["right over one delta"] = _rounded(right - 100 * _by_prompt(reference.right))
    return found


def _by_prompt(values: Sequence[Sequence[float]]) -> Tensor:
    """The mean of each prompt; all have as many questions."""
    return torch.tensor(values, dtype=torch.float64).mean(-1)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(number, 3) for number in interval(values))


def mean(values: Sequence[Sequence[float]]) -> float:
    """Over all questions."""
    return statistics.mean(value for some in values for value in some)


def judge(
    adapted: AdaptedModel, asked: Sequence[AskedSequence], method: Method, at_once: int = 8
) -> Judged:
    """The right answers' nats and whether each would have been said."""
    right: list[list[float]] = [[] for _ in asked]
    nats: list[list[float]] = [[] for _ in asked]
    hits = torch.zeros(len(adapted.layout.sites))
    total = 0
    # with the oracle each question of a prompt is read with a delta of its own
    items = [
        (i, parts)
        for i, one in enumerate(asked)
        for parts in (
            [[part] for part in range(len(one.spans))]
            if method.own is not None
            else [list(range(len(one.spans)))]
        )
    ]
    for first in range(0, len(items), at_once):
        batch = items[first : first + at_once]
        sequences = [asked[i].sequence for i, _ in batch]
        device = next(adapted.model.parameters()).device
        ids, mask, _ = pad([TokenSequence(s.ids) for s in sequences], device)
        where = [
            (row, t - 1, i, part)
            for row, (i, parts) in enumerate(batch)
            for part in parts
            for t in range(*asked[i].spans[part])
        ]
        rows, places = (torch.tensor([w[j] for w in where]) for j in (0, 1))
        wanted = torch.tensor([sequences[w[0]].experts[w[1] + 1] for w in where])
        with acting(adapted, method, wanted, rows, len(batch), hits, places, ids.shape[1]) as model:
            logits = model(input_ids=ids, attention_mask=mask).logits[rows, places].float()
        labels = ids[rows, places + 1]
        said = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        likeliest = logits.argmax(-1) == labels
        total += len(where)
        for i, parts in batch:
            for part in parts:
                mine = torch.tensor([w[2:] == (i, part) for w in where])
                nats[i].append(-float(said[mine].sum()))
                right[i].append(float(likeliest[mine].all()))
    return Judged(right, nats, (hits / total).tolist() if method.gates is not None else [])


@contextmanager
def acting(
    adapted: AdaptedModel,
    method: Method,
    wanted: Tensor,
    rows: Tensor,
    batch: int,
    hits: Tensor,
    places: Tensor,
    width: int,
) -> Iterator[Any]:
    """The model with what a method has, counting which deltas the gates prefer."""
    if method.own is not None:
        expert = torch.zeros(batch, dtype=torch.int64).scatter(0, rows, wanted)
        with adapted.using_rows(method.own[expert]) as model:
            yield model
        return

    def watch(site: int, gated: Gated) -> None:
        chosen = gated.logits[0].view(batch, width, -1)[rows, places].argmax(-1)
        hits[site] += float((chosen == wanted).sum())

    with adapted.using(method.factors, method.scale, gates=method.gates, watch=watch) as model:
        yield model


def added_later(
    adapted: AdaptedModel,
    base: BaseModel,
    names: Sequence[str],
    rows: Tensor,
    gate: GateResult,
    asked: Sequence[AskedSequence],
    learned: Sequence[Task],
) -> dict[str, Any]:
    """Each task's questions with a gate that has no vector for its delta, only its prototype."""
    layout, own = adapted.layout, cores(adapted.layout, rows)
    factors = factors_of(layout, rows)
    right: list[list[float]] = []
    nats: list[list[float]] = []
    routed = []
    for place, name in enumerate(names):
        rest = [i for i in range(len(names)) if i != place]
        others = {names[i]: at for at, i in enumerate(rest)}
        some = spread([t for t in learned if t.task in others], 48)
        arrow = arrow_scales(adapted, rows[rest], gate.bank.vectors[rest], gate.bank.top_k, 1.0,
                             routed_sequences(some, base.encoder, others))  # fmt: skip
        bank = GateBank(tuple(others), gate.bank.vectors[rest], arrow, gate.bank.top_k, 1.0,
                        layout.fingerprint)  # fmt: skip
        method = Method(name, factors, layout.scale, bank.token_gates(layout, names, own))
        judged = judge(adapted, [a for a in asked if a.sequence.experts[0] == place], method)
        right += judged.right
        nats += judged.nats
        routed.append(statistics.mean(judged.routed))
    found = summarize(Judged(right, nats, routed), None)
    print(f"gate, each delta added later: {found['right']} {found['nats']}, routed by task:"
          f" {' '.join(f'{100 * x:.0f}' for x in routed)}", flush=True)  # fmt: skip
    return found


def said_at_once(
    adapted: AdaptedModel,
    base: BaseModel,
    methods: Sequence[Method],
    test: Sequence[Task],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """MeteoRA's form: one generation, in which the answers are looked for by their numbers."""
    composites = compose(
        test, 3, options.said, seed=options.seed + 7,
        fits=lambda c: len(base.encoder.blind(c.question)) <= 450,
    )  # fmt: skip
    prompts = [base.encoder.blind(c.question) for c in composites]
    print(f"\nat once: {len(composites)} composites of 3, one generation each")
    found = {}
    for method in methods:
        if method.own is not None:
            continue
        said = generate(adapted, base, method, prompts, 24)
        parts = [p for c, text in zip(composites, said, strict=True) for p in score(c, text)]
        shares = {key: 100 * statistics.mean(getattr(p, key) for p in parts)
                  for key in ("answered", "exact", "contained")}  # fmt: skip
        found[method.name] = shares
        print(f"{method.name:22} " + " ".join(f"{k} {v:5.1f}" for k, v in shares.items())
              + f"   {said[0][:40]!r}", flush=True)  # fmt: skip
    return found


@torch.no_grad()
def generate(
    adapted: AdaptedModel,
    base: BaseModel,
    method: Method,
    prompts: Sequence[list[int]],
    longest: int,
) -> list[str]:
    """Greedy answers, each prompt by itself and without a cache: the plainest way."""
    stops, _ = base.encoder.stops()
    found = []
    for prompt in prompts:
        ids = list(prompt)
        with adapted.using(method.factors, method.scale, gates=method.gates) as model:
            while len(ids) < len(prompt) + longest:
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
                if token in stops:
                    break
                ids.append(token)
        found.append(base.encoder.decode(ids[len(prompt) :]))
    return found


if __name__ == "__main__":
    main()
