"""The query engine against its peers, on the same work in one run, with equal answers.

    activate    a top-3 mixture from the store: ours against peft's load x 3 + cat + set + delete
                (PRAG's way) and against peft's hotswap x 3; logits compared
    stored      the same with 10 and with 10,000 deltas in the store, rows looked up in the catalog
    questions   16 and 64 questions, each with its own top-3 from disk: one batch of ours against
                the sequential peft loop with its loads; also with a bfloat16 base model on our side
    mixed       the same batches with everything resident: ours against peft's ``adapter_names``
                with merged adapters, and against the base model alone in our loop
    gated       arrow over each question's top-3, token by token, against the loop over adapters
                that MeteoRA makes, and against the static mixture
    fold        one long answer with its mixture in the weights, and in slots
    queue       concurrent ``ask`` calls against one after the other, on a home with mini

All but ``queue`` run on a random Llama of hidden size 384, 8 layers, rank 2 on the MLP linears.
Questions have 32 tokens, answers 16, greedy. Variants take turns; figures are medians of process
CPU time. Ratios stand beside their targets. The last line is JSON.

    python benchmarks/bench_engine.py [--rounds 5] [--threads 1] [--only NAME] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import peft
import torch
import transformers
from engine_case import (
    Case,
    Clock,
    Mixed,
    Sequential,
    Swapped,
    activated,
    agreement,
    answers,
    generated,
)

from adapterdb import AdapterDB
from adapterdb.answers import Composition
from adapterdb.engine.costs import How, Work
from adapterdb.kernels import Impl

PROMPT, NEW, LONG = 32, 16, 128
THREADS = 8
EXAMPLES = Path(__file__).parents[1] / "examples"
CORPUS, QUESTIONS = EXAMPLES / "corpus", EXAMPLES / "questions.jsonl"


class Target(NamedTuple):
    """A ratio the issue asks for."""

    name: str
    found: float
    bound: Literal["at least", "at most"]
    wanted: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.found >= self.wanted if self.bound == "at least" else self.found <= self.wanted


class Sizes(NamedTuple):
    """How much work there is."""

    rounds: int
    batches: tuple[int, ...]
    many: int
    tiny: bool
    rank: int


class Found(NamedTuple):
    """Milliseconds of the variants, whether outputs were equal, and the targets."""

    ms: dict[str, float]
    equal: dict[str, float]
    targets: list[Target]


def activate(folder: Path, sizes: Sizes) -> Found:
    """Questions take turns in a pool too small for them, so that every activation reads rows."""
    case, clock = Case(folder, 96, 12, rank=sizes.rank, tiny=sizes.tiny), Clock()
    cat, swap = Sequential(case), Swapped(case)
    ids = torch.tensor(case.prompts(1, 8))
    known = case.registered(case.mixtures(32))
    for question in range(32):
        activated(case, question, clock, "ours, first read (sha256)", known)
    worst = 0.0
    for turn in range(2 * sizes.rounds):
        for step in range(8):
            activated(case, turn + step, clock, "ours", known)
        for step in range(8, 16):
            activated(case, turn + step, clock, "ours, rows looked up in the catalog")
        case.runtime.base.model(ids)  # other things in the caches
        activated(case, turn + 16, clock, "ours, after a forward", known)
        with case.runtime.acting(case.mixtures(1, first=turn + 16), known) as model:
            mine = model(ids).logits
        folders = case.top3(turn + 16)[1]
        for _ in range(2):
            with clock.measure("peft cat"):
                cat.activate(folders)
            theirs = cat.model(ids).logits
            with clock.measure("peft cat, delete"):
                cat.let_go()
        for _ in range(4):
            with clock.measure("peft hotswap"):
                swap.activate(folders)
        for logits in (theirs, swap.model(ids).logits):
            worst = max(worst, float((mine - logits).detach().abs().max()))
    case.close()
    clock.add("peft cat", "peft cat, delete")
    targets = [
        Target("peft cat / ours", clock.ratio("peft cat", "ours"), "at least", 1000),
        Target("peft hotswap / ours", clock.ratio("peft hotswap", "ours"), "at least", 200),
    ]
    return Found(clock.table(), {"largest difference of a logit": worst}, targets)


def stored(folder: Path, sizes: Sizes) -> Found:
    """From delta ids to factors, out of stores of two sizes, no row resident."""
    clock, few = Clock(), 10
    cases = {
        n: Case(folder / str(n), n, 3, rank=sizes.rank, tiny=sizes.tiny, peers=False)
        for n in (few, sizes.many)
    }
    asked = [7919 * i for i in range(100)]  # a prime apart: rows that follow each other lie far off
    known = {
        n: case.registered([case.mixtures(1, first=question)[0] for question in asked])
        for n, case in cases.items()
    }
    for turn in range(sizes.rounds + 1):
        when = "" if turn else ", first read"
        for question in asked:
            for n, case in cases.items():
                activated(case, question, clock, f"{n} stored, looked up{when}")
        for question in asked if turn else ():
            for n, case in cases.items():
                activated(case, question, clock, f"{n} stored, rows known", known[n])
    for case in cases.values():
        case.close()
    targets = [
        Target(f"{sizes.many} / {few} {way}", clock.ratio(f"{sizes.many} {way}", f"{few} {way}"),
               "at most", 1.2)
        for way in ("stored, looked up", "stored, rows known")
    ]  # fmt: skip
    return Found(clock.table(), {}, targets)


def questions(folder: Path, sizes: Sizes) -> Found:
    """Nothing is resident when a batch begins, and rows are looked up."""
    case, clock = a_case(folder, sizes), Clock()
    half, peer = case.serving(torch.bfloat16), Sequential(case)
    equal: dict[str, float] = {}
    targets = []
    for batch in sizes.batches:
        prompts, mixtures = case.prompts(batch, PROMPT), case.mixtures(batch)
        for _ in range(sizes.rounds):
            said = {}
            for name, runtime in (("ours", case.runtime), ("ours, bfloat16 base", half)):
                runtime.pool.forget(case.ids)
                with clock.measure(f"{name}, {batch}"):
                    known = case.registered(mixtures)
                    with runtime.acting(mixtures, known) as model:
                        said[name] = answers(model, prompts, NEW)
            with clock.measure(f"peft sequential, {batch}"):
                theirs = [
                    peer.answer(prompt, case.top3(i)[1], NEW) for i, prompt in enumerate(prompts)
                ]
        for name, mine in said.items():
            equal |= {f"{name}, {batch}: {k}": v for k, v in agreement(mine, theirs).items()}
            ratio = clock.ratio(f"peft sequential, {batch}", f"{name}, {batch}")
            wanted = 20 if batch >= 64 else 15
            targets.append(Target(f"peft sequential / {name}, {batch}", ratio, "at least", wanted))
    case.close()
    return Found(clock.table(), equal, targets)


def mixed(folder: Path, sizes: Sizes) -> Found:
    """Everything is resident on both sides; peft's adapters have been merged beforehand."""
    case, clock = a_case(folder, sizes), Clock()
    plain = case.fresh()
    equal: dict[str, float] = {}
    targets = []
    for batch in sizes.batches:
        peer = Mixed(case, batch, folder / f"merged{batch}")
        prompts, mixtures = case.prompts(batch, PROMPT), case.mixtures(batch)
        known = case.registered(mixtures)
        for _ in range(sizes.rounds):
            with clock.measure(f"ours, {batch}"), case.runtime.acting(mixtures, known) as model:
                mine = answers(model, prompts, NEW)
            with clock.measure(f"base alone in our loop, {batch}"):
                answers(plain, prompts, NEW)
            with clock.measure(f"base alone in generate, {batch}"):
                generated(plain, prompts, NEW)
            with clock.measure(f"peft adapter_names, {batch}"):
                theirs = peer.answer(prompts, NEW)
        equal |= {f"{batch}: {k}": v for k, v in agreement(mine, theirs).items()}
        ours, base = f"ours, {batch}", f"base alone in our loop, {batch}"
        targets += [
            Target(f"peft adapter_names / ours, {batch}",
                   clock.ratio(f"peft adapter_names, {batch}", ours), "at least",
                   2.2 if batch >= 64 else 1.9),
            Target(f"base alone / ours, {batch}", clock.ratio(base, ours), "at least",
                   0.95 if sizes.rank == 2 else 0.85),
        ]  # fmt: skip
    case.close()
    return Found(clock.table(), equal, targets)


def gated(folder: Path, sizes: Sizes) -> Found:
    """Every token goes through two of its question's three deltas."""
    case, clock = a_case(folder, sizes), Clock()
    equal: dict[str, float] = {}
    targets = []
    for batch in sizes.batches:
        prompts, known = case.prompts(batch, PROMPT), case.registered(case.mixtures(batch))
        ways: dict[str, tuple[Composition, Impl]] = {
            "static": ("cat", "auto"),
            "gated": ("arrow", "auto"),
            "gated, gathered": ("arrow", "gathered"),
            "gated, loop": ("arrow", "loop"),
        }
        said = {}
        for _ in range(sizes.rounds):
            for name, (composition, impl) in ways.items():
                case.runtime.adapted.impl = impl
                with (
                    clock.measure(f"{name}, {batch}"),
                    case.runtime.acting(case.mixtures(batch, composition), known) as model,
                ):
                    said[name] = answers(model, prompts, NEW)
        equal |= {
            f"{batch}: {k}": v for k, v in agreement(said["gated"], said["gated, loop"]).items()
        }
        equal[f"{batch}: equal answers of gated and static"] = agreement(
            said["gated"], said["static"]
        )["equal answers"]
        mine = f"gated, {batch}"
        targets += [
            Target(f"loop / gated, {batch}", clock.ratio(f"gated, loop, {batch}", mine),
                   "at least", 5),
            Target(f"gated / static, {batch}", clock.ratio(mine, f"static, {batch}"),
                   "at most", 1.3),
        ]  # fmt: skip
    case.close()
    return Found(clock.table(), equal, targets)


def fold(folder: Path, sizes: Sizes) -> Found:
    """One question and a long answer; also what the runtime chooses by its own measurement."""
    case, clock = Case(folder, 3, 3, rank=sizes.rank, tiny=sizes.tiny), Clock()
    ways: tuple[How, ...] = ("slots", "fold")
    prompts, mixtures = case.prompts(1, PROMPT), case.mixtures(1)
    known, said = case.registered(mixtures), {}
    for new in (NEW, LONG):
        for _ in range(sizes.rounds):
            for how in ways:
                with (
                    clock.measure(f"{how}, {new} tokens"),
                    case.runtime.acting(mixtures, known, how=how) as model,
                ):
                    said[how] = answers(model, prompts, new)
    with case.runtime.acting(mixtures, known, work=Work(PROMPT, 2 * LONG)):
        chosen = case.runtime.acted.how
    before = [weight.clone() for weight in case.fresh().state_dict().values()]
    after = case.runtime.base.model.state_dict().values()
    equal = agreement(said["slots"], said["fold"]) | {
        "fold is chosen for an answer of 128 tokens": float(chosen == "fold"),
        "weights unchanged": float(all(map(torch.equal, before, after))),
    }
    case.close()
    return Found(clock.table(), equal, [])


def queue(folder: Path, sizes: Sizes) -> Found:
    """The example questions, asked by one thread and by eight; milliseconds are of the wall."""
    documents = sorted(CORPUS.glob("*.md"))[: 2 if sizes.tiny else None]
    asked = [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()]
    asked, clock = asked[: 4 if sizes.tiny else 64], Clock(time.perf_counter)
    with AdapterDB.create(folder / "home") as db, ThreadPoolExecutor(THREADS) as pool:
        db.ingest(documents)
        db.ask(asked[0], mode="adapter")  # loads the models

        def ask(question: str) -> str:
            return db.ask(question, mode="adapter").text

        for _ in range(sizes.rounds):
            with clock.measure("one after the other"):
                alone = [ask(question) for question in asked]
            with clock.measure(f"{THREADS} threads"):
                together = list(pool.map(ask, asked))
            with clock.measure("one call of ask_many"):
                many = [answer.text for answer in db.ask_many(asked, mode="adapter")]
    equal = {
        f"equal answers of {THREADS} threads": shared(alone, together),
        "equal answers of ask_many": shared(alone, many),
    }
    gain = clock.ratio("one after the other", f"{THREADS} threads")
    return Found(clock.table(), equal | {"one after the other / threads": gain}, [])


def shared(one: list[str], other: list[str]) -> float:
    """Share of texts that are the same."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def a_case(folder: Path, sizes: Sizes) -> Case:
    """Three deltas for each question of the largest batch, all of which may be resident."""
    most = 3 * max(sizes.batches)
    return Case(folder, most, most, rank=sizes.rank, tiny=sizes.tiny)


SECTIONS: dict[str, Callable[[Path, Sizes], Found]] = {
    "activate": activate,
    "stored": stored,
    "questions": questions,
    "mixed": mixed,
    "gated": gated,
    "fold": fold,
    "queue": queue,
}


def show(name: str, found: Found) -> None:
    """A section as a table."""
    print(f"\n{name}")
    for variant, ms in found.ms.items():
        print(f"    {variant:44}{ms:12.3f} ms")
    for what, value in found.equal.items():
        print(f"    {what:44}{value:12.4g}")
    for target in found.targets:
        state = "met" if target.met else "NOT MET"
        print(f"    {target.name:44}{target.found:12.2f} {target.bound} {target.wanted}: {state}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(SECTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the program")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # peft and transformers warn about each other
    transformers.utils.logging.disable_progress_bar()
    sizes = Sizes(options.rounds, tuple(options.batches), 10_000, tiny=False, rank=options.rank)
    if options.quick:
        sizes = Sizes(1, (2, 3), 20, tiny=True, rank=2)
    results = {}
    for name in [options.only] if options.only else SECTIONS:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            found = SECTIONS[name](Path(folder), sizes)
        show(name, found)
        results[name] = {
            "ms": found.ms,
            "equal": found.equal,
            "targets": [{**target._asdict(), "met": target.met} for target in found.targets],
        }
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    set_up = {**sizes._asdict(), "threads": options.threads, "cpus": os.cpu_count(), **versions}
    print(json.dumps({"set_up": set_up, **results}))


if __name__ == "__main__":
    main()
