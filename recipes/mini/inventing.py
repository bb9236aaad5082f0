"""Questions that a shipped mini writes on plain text, kept where it answers them back.

The set of questions people wrote is soon known by heart; these are on paragraphs that have none.
Asked with one sentence, read with the whole paragraph, as `adb augment` does. Appends to
`invented.jsonl` in the run's data folder until `--minutes` are over; goes on from where it is.

    python -m recipes.mini.inventing --minutes 20
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

from adapterdb.ingest.augment.asking import FOUND_AGAIN, question_in
from adapterdb.ingest.augment.spans import answer_spans
from adapterdb.training.sentences import sentences
from recipes.mini.adapted import Adapted
from recipes.mini.corpus import Corpus
from recipes.mini.prepare import DEFAULT_RUN, write
from recipes.mini.prompts import Piece
from recipes.mini.scoring import score
from recipes.mini.start import SHIPPED

TRIES = 2  # answers asked for in a paragraph
SPANS = 5  # of a sentence, of which one is drawn
QUESTION_TOKENS = 28


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and write questions."""
    parser = argparse.ArgumentParser(description="let mini ask about plain text")
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paragraphs", type=int, default=128, help="at once")
    parser.add_argument("--batch", type=int, default=32, help="prompts at once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = Adapted(options.model, options.device, bfloat16=True)
    path = options.run / "data" / "invented.jsonl"
    had = read(path)
    done = 1 + max((record["text"] for record in had), default=-1)
    write(path, had)  # without a line that was cut short, or the next would be added to it
    texts = Corpus(options.run / "data").texts
    began = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        while done < len(texts) and time.monotonic() - began < 60 * options.minutes:
            some = range(done, min(done + options.paragraphs, len(texts)))
            rng = random.Random(f"{options.seed}/{done}")
            kept = invent(model, {i: texts[i] for i in some}, options.batch, rng)
            for record in kept:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            done = some.stop
            print(
                f"{done} paragraphs, {len(kept)} of the last {TRIES * len(some)} kept", flush=True
            )


def read(path: Path) -> list[dict[str, Any]]:
    """The records so far; a last line cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def invent(
    model: Adapted, pieces: dict[int, Piece], batch: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Questions on the paragraphs, each with its text's number, answer and place."""
    orders = []
    for number, piece in pieces.items():
        every = sentences(piece.text)
        for sentence in rng.sample(every, min(TRIES, len(every))):
            spans = answer_spans(sentence, SPANS)
            if spans:
                orders.append((number, sentence, rng.choice(spans)))
    prompts = [
        model.prompts.ask(answer, pieces[number].title, sentence, QUESTION_TOKENS)
        for number, sentence, answer in orders
    ]
    written = model.answer(prompts, None, batch, QUESTION_TOKENS)
    asked = [
        (number, sentence, answer, question)
        for (number, sentence, answer), text in zip(orders, written, strict=True)
        if (question := question_in(text, answer))
    ]
    room = model.prompts.prompts.max_new_tokens
    shown = [model.prompts.context(q, [pieces[number]], room)[0] for number, _, _, q in asked]
    told = model.answer(shown, None, batch)
    kept = []
    for (number, sentence, answer, question), text in zip(asked, told, strict=True):
        start = pieces[number].text.find(sentence)
        start = pieces[number].text.find(answer, max(start, 0))
        if start >= 0 and score(text, [answer]).f1 >= FOUND_AGAIN:
            kept.append({"text": number, "question": question, "answer": answer, "start": start})
    return kept


if __name__ == "__main__":
    main()
