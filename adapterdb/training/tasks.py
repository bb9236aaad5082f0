"""Questions with the passages that answer them: what meta-training and task tuning learn from.

Reads the uniform record format, one JSON object a line, also gzip-compressed:

    {"id", "question", "answers": [...], "passages": [{"id", "title", "text"}], "supporting": [id]}

``task`` and ``split`` may name what a record is an example of, and which part of it. MeteoRA's
``prompt`` and ``response``, and one ``answer`` as a text, are read too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdb.errors import InvalidInput

SHARE_OF_TEST = 0.2
NAMED = "'question' (or 'prompt') and 'answers' (or 'response')"
ASIDE = 0.05  # of the passages, to choose the best step by, where no held-out file is given


@dataclass(frozen=True)
class Task:
    """A question, its accepted answers, and passages that hold the answer and others that don't.

    Args:
        id: of the record, or its line.
        passages: ``(title, text)``.
        gold: which of them answer it, by place.
        task: what it is an example of, or empty. split: ``train``, ``test``, ..., or empty.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[tuple[str, str], ...]
    gold: tuple[int, ...]
    task: str = ""
    split: str = ""

    @property
    def answer(self) -> str:
        """The one to be learned."""
        return self.answers[0]

    @property
    def part(self) -> str:
        """Its split; where it names none, every fifth question is ``test`` and others ``train``."""
        return self.split or ("test" if _drawn(self, -1) < SHARE_OF_TEST else "train")


def read_tasks(
    path: Path,
    limit: int | None = None,
    *,
    with_passages: bool = True,
    task: str | None = None,
    split: str | None = None,
) -> list[Task]:
    """The tasks in a JSON Lines file (``.gz`` or plain), in order; at most ``limit``.

    Args:
        with_passages: pass over records without a passage; those without an answer always are.
        task: only examples of it. split: only this part, see ``Task.part``.

    Raises:
        InvalidInput: if the file is missing, a line is no such record, or there is no task in it.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}")
    found: list[Task] = []
    for number, line in numbered_lines(path):
        if limit is not None and len(found) >= limit:
            break
        try:
            read = _task(json.loads(line), f"{path.stem}:{number}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            needed = "'question', 'answers' and 'passages'" if with_passages else NAMED
            raise InvalidInput(
                f"{path} line {number}: {type(error).__name__} {error}; expected an object with"
                f" {needed}"
            ) from error
        chosen = task in (None, read.task) and split in (None, read.part)
        if chosen and read.answers and (read.passages or not with_passages):
            found.append(read)
    if not found:
        wanted = "an answer and a passage" if with_passages else "an answer"
        where = "".join(f", {k} {v!r}" for k, v in (("task", task), ("split", split)) if v)
        raise InvalidInput(f"{path} holds no question with {wanted}{where}")
    return found


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, ``.gz`` or plain, counted from 1."""
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")  # a byte-order mark is no part of a line
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig") as file
    ):
        yield from enumerate(file, start=1)


def _task(row: dict[str, Any], name: str) -> Task:
    json.dumps(row, ensure_ascii=False).encode()  # ValueError for a lone surrogate: no text
    passages: Sequence[dict[str, Any]] = row.get("passages") or []
    ids = [str(p.get("id", i)) for i, p in enumerate(passages)]
    supporting = {str(i) for i in row.get("supporting") or ids}
    return Task(
        id=str(row.get("id", name)),
        question=str(row["question"] if "question" in row else row["prompt"]),
        answers=_answers(row),
        passages=tuple((str(p.get("title") or ""), str(p["text"])) for p in passages),
        gold=tuple(i for i, own in enumerate(ids) if own in supporting),
        task=str(row.get("task") or ""),
        split=str(row.get("split") or ""),
    )


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    one = row.get("answer", row.get("response"))
    given = row["answers"] if row.get("answers") else [] if one is None else [one]
    return tuple(str(answer) for answer in given if str(answer).strip())


def read_sets(
    questions: str | Path, held_out: str | Path | None, seed: int, **chosen: Any
) -> tuple[list[Task], list[Task]]:
    """What to learn from, and what to choose by: a file of its own, or some set aside.

    Args:
        seed: of what is set aside.
        chosen: as ``read_tasks`` takes it; ``split`` is of ``questions`` alone.
    """
    tasks = read_tasks(Path(questions), **chosen)
    if held_out is not None:
        return tasks, read_tasks(Path(held_out), **{**chosen, "split": None})
    return set_aside(tasks, ASIDE, seed)


def set_aside(
    tasks: Sequence[Task], share: float = 0.1, seed: int = 0
) -> tuple[list[Task], list[Task]]:
    """Tasks to learn from and tasks to judge by, that share no passage.

    Which side a task is on follows from its passages and the seed alone, so that questions of one
    passage stay together, and a longer file keeps its sides.

    Args:
        share: of the passages to be set aside, 0 to 1.

    Returns:
        What is left, and what was set aside; at least one task is left.
    """
    kept: list[Task] = []
    aside: list[Task] = []
    for task in tasks:
        (aside if _drawn(task, seed) < share else kept).append(task)
    return (kept, aside) if kept else (aside, kept)


def _drawn(task: Task, seed: int) -> float:
    """A number of 0 to 1 that follows from the task's passages, or its question, and the seed."""
    text = "\0".join(task.passages[i][1] for i in task.gold) or task.question
    digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:4], "little") / 2**32
