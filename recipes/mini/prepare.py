"""Data for `mini`: passages, questions and plain text, in small JSON Lines files.

Reads the SQuAD v1.1 training articles (never the development ones) and, where it is there, plain
Wikipedia text; sets some training articles aside for choosing checkpoints. Deterministic for a
seed. The answer's place in the passage is its first occurrence, as the source gives none.

    python -m recipes.mini.prepare --data ../shared/data --text ../shared/text
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

DEFAULT_RUN = Path("runs/mini")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the prepared files."""
    parser = argparse.ArgumentParser(description="prepare the training data of mini")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--text", type=Path, default=Path("../shared/text"))
    parser.add_argument("--out", type=Path, default=DEFAULT_RUN / "data")
    parser.add_argument("--held-out", type=int, default=10, help="training articles set aside")
    parser.add_argument("--texts", type=int, default=40_000, help="pieces of plain text")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    rng = random.Random(options.seed)
    passages, questions = squad(options.data / "squad_v1" / "train.jsonl.gz")
    titles = sorted({passage["title"] for passage in passages})
    aside = set(rng.sample(titles, min(options.held_out, len(titles) - 1)))
    for passage in passages:
        passage["held_out"] = passage["title"] in aside
    write(options.out / "passages.jsonl", passages)
    write(options.out / "questions.jsonl", questions)
    texts = list(islice(pieces(options.text, rng), options.texts))
    write(options.out / "texts.jsonl", texts)
    print(
        f"{len(passages)} passages of {len(titles)} articles ({len(aside)} set aside),",
        f"{len(questions)} questions, {len(texts)} pieces of plain text",
    )


def squad(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Distinct passages, and questions that point at them by index.

    Questions whose answer is not literally in the passage are left out.
    """
    passages: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    index: dict[str, int] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            passage, answer = record["passages"][0], record["answers"][0]
            start = passage["text"].find(answer)
            if start < 0 or not answer.strip() or not record["question"].strip():
                continue
            if passage["id"] not in index:
                index[passage["id"]] = len(passages)
                passages.append({"title": passage["title"], "text": passage["text"]})
            questions.append(
                {
                    "passage": index[passage["id"]],
                    "question": record["question"].strip(),
                    "answer": answer,
                    "start": start,
                }
            )
    return passages, questions


def pieces(folder: Path, rng: random.Random) -> Iterator[dict[str, str]]:
    """Pieces of 200 to 800 characters of prose, at most six from one article."""
    for path in sorted(folder.glob("enwiki*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                found = [p for p in record["text"].split("\n") if len(p) >= 200]
                for paragraph in rng.sample(found, min(6, len(found))):
                    yield {"title": record["title"], "text": _cut(paragraph, 800)}


def write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON record a line."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else re.sub(r"\S*$", "", text[:limit]).strip()


if __name__ == "__main__":
    main()
