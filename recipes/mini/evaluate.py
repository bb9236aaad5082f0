"""The shipped folder on SQuAD development questions, with every control.

Articles of the development split are never trained on. Conditions: the question alone, with the
gold passage in the prompt, with the gold passage's delta, with the delta of a passage of another
article, with a random delta of equal norm per tensor, with delta and passage; answer losses;
perplexity of other text under an unrelated delta; questions and sentences it writes. Prints a
table and one JSON line. With `--aside`, set-aside training articles are asked instead, in the
three modes only: what checkpoints are chosen by.

    python -m recipes.mini.evaluate --questions 1000
    python -m recipes.mini.evaluate --model FOLDER --aside runs/mini/data --questions 400
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.mini.adapted import Adapted
from recipes.mini.corpus import Corpus
from recipes.mini.prompts import Piece
from recipes.mini.scoring import score
from recipes.mini.start import SHIPPED
from recipes.mini.tasks import answered, plain
from recipes.mini.writing import asking, restating

CHOSEN_BY = ("rag gold", "adapter gold", "hybrid gold")


class Asked(NamedTuple):
    """A question; `passage` indexes the list of all passages."""

    question: str
    answers: list[str]
    passage: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, evaluate, print."""
    parser = argparse.ArgumentParser(description="evaluate the shipped mini")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--aside", type=Path, help="data of prepare: draw from what it set aside")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--sample", action="store_true", help="seeded draw, not the first ones")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float32", action="store_true", help="not bfloat16 matrix products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print this many answers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    result = evaluate(options)
    print(f"\n{'condition':<22}{'F1':>8}{'EM':>8}")
    for name, entry in result["answers"].items():
        print(f"{name:<22}{entry['f1']:>8.1f}{entry['em']:>8.1f}")
    for name in ("nll", "perplexity", "asking", "restating"):
        print(name, json.dumps(result.get(name, {})))
    result["minutes"] = round((time.monotonic() - started) / 60, 1)
    print(json.dumps(result))


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """All conditions; F1 and EM in percent, losses in nats per answer token."""
    torch.manual_seed(options.seed)
    choosing = options.aside is not None
    if choosing:
        pieces, asked = set_aside(options.aside)
    else:
        pieces, asked = development(options.data / "squad_v1" / "dev.jsonl.gz")
    sampled = options.sample or choosing
    if sampled:
        asked = random.Random(options.seed).sample(asked, min(options.questions, len(asked)))
    asked = asked[: options.questions]
    model = Adapted(options.model, options.device, not options.float32)
    blind = [model.prompts.blind(q.question) for q in asked]
    shown = [_context(model, q.question, pieces[q.passage]) for q in asked]
    answers: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {"n": len(asked), "seed": options.seed, "sampled": sampled}
    result["answers"] = answers

    def run(
        name: str, prompts: list[list[int]], rows: Callable[[list[int]], Tensor] | None
    ) -> None:
        if choosing and name not in CHOSEN_BY:
            return
        beams = model.prompts.prompts.blind_beams if prompts is blind else 1
        given = model.answer(prompts, rows, options.batch, beams=beams)
        scores = [score(a, q.answers) for a, q in zip(given, asked, strict=True)]
        answers[name] = {
            "f1": round(100 * sum(s.f1 for s in scores) / len(scores), 2),
            "em": round(100 * sum(s.em for s in scores) / len(scores), 2),
        }
        print(name, answers[name], flush=True)
        for q, a in list(zip(asked, given, strict=True))[: options.show]:
            print(f"    {q.question} -> {a!r} (gold {q.answers[0]!r})")

    run("base", blind, None)
    run("rag gold", shown, None)
    if not choosing:
        some = random.Random(options.seed).sample(asked, min(200, len(asked)))
        gold = [pieces[q.passage] for q in some]
        result["asking"] = asking(model, [q.answers[0] for q in some], gold, options.batch)
        if model.prompts.prompts.restate:
            texts_asked = list(dict.fromkeys(piece.text for piece in gold))[:40]
            result["restating"] = restating(model, texts_asked, options.batch, options.seed)
    if model.layout is None:
        return result

    own = {q.passage for q in asked}
    other = {p: shifted(pieces, p) for p in own}
    needed = sorted(own | set(other.values()))
    at = {passage: i for i, passage in enumerate(needed)}
    start = time.monotonic()
    bank = model.gradients([pieces[p] for p in needed])
    result["gradient_s_per_passage"] = round((time.monotonic() - start) / len(needed), 3)

    def rows_of(passages: list[int], chance: bool = False) -> Tensor:
        rows = bank[[at[p] for p in passages]]
        return model.theta - model.alpha * (_random_like(model, rows) if chance else rows)

    golds = [q.passage for q in asked]
    wrongs = [other[p] for p in golds]
    run("adapter gold", blind, lambda which: rows_of([golds[i] for i in which]))
    run("adapter mismatched", blind, lambda which: rows_of([wrongs[i] for i in which]))
    run("adapter random", blind, lambda which: rows_of([golds[i] for i in which], chance=True))
    run("theta* alone", blind, lambda which: model.theta.expand(len(which), -1))
    run("hybrid gold", shown, lambda which: rows_of([golds[i] for i in which]))

    targets = [model.prompts.answer(q.answers[0]) for q in asked]
    pairs = list(zip(blind, targets, strict=True))

    @torch.no_grad()
    def nll(passages: list[int] | None) -> float:
        total, count = 0.0, 0
        for i in range(0, len(pairs), options.batch):
            some = answered(pairs[i : i + options.batch])
            rows = None if passages is None else rows_of(passages[i : i + options.batch])
            found = model.losses(some, rows)
            total, count = total + found.sum().item(), count + len(found)
        return round(total / count, 3)

    result["nll"] = {"own": nll(golds), "mismatched": nll(wrongs), "none": nll(None)}

    @torch.no_grad()
    def perplexity(unrelated: bool) -> float:
        total, count = 0.0, 0
        for i in range(0, len(texts), 16):
            some = plain(model.prompts, [pieces[p] for p in texts[i : i + 16]])
            rows = rows_of([other[p] for p in texts[i : i + 16]]) if unrelated else None
            found = model.losses(some, rows)
            total, count = total + found.sum().item(), count + len(found)
        return math.exp(total / count)

    texts = sorted(own)[:200]
    before, changed = perplexity(False), perplexity(True)
    result["perplexity"] = {
        "none": round(before, 2),
        "unrelated delta": round(changed, 2),
        "change_percent": round(100 * (changed / before - 1), 2),
        "passages": len(texts),
    }
    return result


def development(path: Path) -> tuple[list[Piece], list[Asked]]:
    """All passages in file order, and all questions."""
    pieces: list[Piece] = []
    asked: list[Asked] = []
    index: dict[str, int] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            passage = record["passages"][0]
            if passage["id"] not in index:
                index[passage["id"]] = len(pieces)
                pieces.append(Piece(passage["title"], passage["text"]))
            asked.append(Asked(record["question"], record["answers"], index[passage["id"]]))
    return pieces, asked


def set_aside(folder: Path) -> tuple[list[Piece], list[Asked]]:
    """All passages, and all questions on those set aside."""
    corpus = Corpus(folder, held_out=True)
    return corpus.pieces, [Asked(q.question, [q.answer], q.passage) for q in corpus.questions]


def shifted(pieces: Sequence[Piece], passage: int) -> int:
    """A passage of another article, half the list further on."""
    found = (passage + len(pieces) // 2) % len(pieces)
    while pieces[found].title == pieces[passage].title and found != passage:
        found = (found + 1) % len(pieces)
    return found


def _context(model: Adapted, question: str, piece: Piece) -> list[int]:
    """The prompt with the passage, cut to the model's positions less the answer's."""
    return model.prompts.context(question, [piece], model.prompts.prompts.max_new_tokens)[0]


def _random_like(model: Adapted, rows: Tensor) -> Tensor:
    """Gaussian rows whose every A and B has the norm of that in `rows [N, P]`."""
    drawn = torch.randn_like(rows)
    assert model.layout is not None
    views = zip(model.layout.views(drawn), model.layout.views(rows), strict=True)
    for new_pair, old_pair in views:
        for new, old in zip(new_pair, old_pair, strict=True):
            size = [tensor.flatten(1).norm(dim=1)[:, None, None] for tensor in (old, new)]
            new *= size[0] / size[1]
    return drawn


if __name__ == "__main__":
    main()
