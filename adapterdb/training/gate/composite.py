"""Composite questions: n questions of n tasks asked at once, to be answered one after the other.

MeteoRA's stress test of a gate (arXiv 2405.13053): within one answer the gate has to go from delta
to delta. Made from task sets, or read as MeteoRA published them. Text and token ids only; what
answers them is the caller's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from adapterdb.errors import Exists, InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int
from adapterdb.training.gate.objective import NONE, RoutedSequence
from adapterdb.training.tasks import Task, numbered_lines, read_tasks

Form = Literal["together", "turns"]
# the tasks of MeteoRA's composite-10, in the order in which they are asked
PUBLISHED = (
    "logical_deduction", "question_selection", "abstract_narrative_understanding",
    "goal_step_wikihow", "winowhy", "strategyqa", "disfl_qa", "news_commentary_de", "alpaca",
    "linguistics_puzzles",
)  # fmt: skip
_SEPARATOR = "@@@@"  # between the published answers
_TRIES = 200  # draws of one composite question before it is said that none fits


@dataclass(frozen=True)
class Composite:
    """Questions that are asked at once.

    Args:
        id: of the whole.
        parts: the questions in the order they are asked, each with its task and answers.
        shots: earlier ones of the same tasks, answered in the prompt.
        prompt: as it was published; empty: it is written from the parts.
    """

    id: str
    parts: tuple[Task, ...]
    shots: tuple[tuple[Task, ...], ...] = ()
    prompt: str = ""

    @property
    def question(self) -> str:
        """The whole prompt: numbered questions, after answered examples if there are any."""
        if self.prompt:
            return self.prompt
        examples = [
            f"Example {i}:\n{numbered([t.question for t in shot])}\n\n"
            f"{numbered([t.answer for t in shot])}"
            for i, shot in enumerate(self.shots, start=1)
        ]
        asked = numbered([task.question for task in self.parts])
        return "\n\n".join([*examples, f"Now these:\n{asked}" if examples else asked])

    @property
    def answer(self) -> str:
        """What is to be said: the answers under the same numbers."""
        return numbered([task.answer for task in self.parts])

    def to_row(self) -> dict[str, Any]:
        """A record that ``read_composites`` reads, and ``read_tasks`` as one question."""
        row = {
            "id": self.id, "task": f"composite-{len(self.parts)}", "question": self.question,
            "answers": [self.answer], "parts": [_plain(task) for task in self.parts],
            "shots": [[_plain(task) for task in shot] for shot in self.shots],
        }  # fmt: skip
        return row | ({"prompt": self.prompt} if self.prompt else {})


class PartScore(NamedTuple):
    """How one of the questions was answered.

    Attributes:
        task: of it.
        answered: something was said under its number.
        exact: it equals an accepted answer, but for case and white space.
        contained: an accepted answer is somewhere in it.
    """

    task: str
    answered: bool
    exact: bool
    contained: bool


class AskedSequence(NamedTuple):
    """A composite question with its right answers as token ids.

    Attributes:
        sequence: the ids, each token with the place of its task's delta.
        spans: for each part where its answer lies, ``[first, last)``.
    """

    sequence: RoutedSequence
    spans: tuple[tuple[int, int], ...]


def numbered(texts: Sequence[str]) -> str:
    """``1. ...`` and so on, a line each."""
    return "\n".join(f"{i}. {text.strip()}" for i, text in enumerate(texts, start=1))


def compose(
    tasks: Sequence[Task],
    n: int,
    count: int,
    *,
    seed: int = 0,
    shots: int = 0,
    shots_from: Sequence[Task] | None = None,
    fits: Callable[[Composite], bool] | None = None,
) -> list[Composite]:
    """``count`` composite questions of n different tasks each.

    Every question of a task has its turn before one comes again.

    Args:
        tasks: examples of at least n tasks.
        seed: of every draw.
        shots: answered examples before each.
        shots_from: examples they are taken from; None: ``tasks``, a question never beside itself.
        fits: whether one may be used; others are drawn again.

    Raises:
        InvalidInput: for too few tasks or examples, or if none of many draws fits.
    """
    decks, examples = _Decks(tasks, seed), _Decks(shots_from or tasks, seed + 1)
    names = [name for name in decks.names if not shots or name in examples.names]
    if n < 2 or len(names) < n:
        raise InvalidInput(
            f"a composite of {n} needs 2 or more tasks and as many to draw from; the examples name"
            f" {len(names)} ({', '.join(names)[:200] or 'none'})",
            hint="every example says its 'task'",
        )
    generator = torch.Generator().manual_seed(seed)
    found: list[Composite] = []
    for i in range(count):
        for _ in range(_TRIES):
            chosen = [names[j] for j in torch.randperm(len(names), generator=generator)[:n]]
            parts = tuple(decks.draw(name) for name in chosen)
            before = tuple(
                tuple(examples.draw(task.task, other_than=task) for task in parts)
                for _ in range(shots)
            )
            made = Composite(f"composite-{n}:{seed}:{i}", parts, before)
            if fits is None or fits(made):
                found.append(made)
                break
        else:
            raise InvalidInput(
                f"none of {_TRIES} composites of {n} questions fits, of {len(names)} tasks",
                hint="use shorter questions, fewer of them, or fewer shots",
            )
    return found


def write_composites(
    questions: Path,
    out: Path,
    *,
    n: int = 3,
    count: int = 200,
    seed: int = 0,
    shots: int = 0,
    split: str | None = None,
    longest: int | None = None,
) -> int:
    """Composite questions from a file of examples to a new JSON Lines file.

    Shots are taken from the training part where there is one beside ``split``.

    Args:
        longest: characters of a prompt.

    Returns:
        How many were written.

    Raises:
        InvalidInput: as ``read_tasks`` and ``compose``.
        Exists: if ``out`` does.
    """
    if out.exists():
        raise Exists(f"{str(out)!r} exists already", hint="name a file that isn't there yet")
    check_int("n", n, 2, 1000)
    check_int("count", count, 1, 10**6)
    check_int("shots", shots, 0, 100)
    tasks = read_tasks(questions, with_passages=False)
    asked = [task for task in tasks if split in (None, task.part)]
    before = [task for task in tasks if task.part == "train"] if split else None

    def fits(made: Composite) -> bool:
        return longest is None or len(made.question) <= longest

    found = compose(asked, n, count, seed=seed, shots=shots, shots_from=before, fits=fits)
    text = "".join(json.dumps(made.to_row(), ensure_ascii=False) + "\n" for made in found)
    out.write_text(text, encoding="utf-8")
    return len(found)


def split_answers(text: str, n: int) -> list[str]:
    """The n answers in what a model said, an empty text for one that is not there.

    Numbers are looked for in order, at the beginning of a word and followed by a point or a
    bracket; what precedes the first is the first answer if ``1.`` isn't said. Answers between
    MeteoRA's ``@@@@`` are taken as they stand.
    """
    if _SEPARATOR in text:
        pieces = [piece.strip() for piece in text.split(_SEPARATOR)]
        return (pieces + [""] * n)[:n]
    marks: list[tuple[int, int, int]] = []  # number, where it begins, where its answer begins
    at = 0
    for number in range(1, n + 1):
        mark = re.compile(rf"(?:^|(?<=\s)){number}\s*[.)](?=\s|$)").search(text, at)
        if mark is not None:
            marks.append((number, *mark.span()))
            at = mark.end()
    if not marks or marks[0][0] != 1:
        marks.insert(0, (1, 0, 0))
    found = [""] * n
    ends = [*(begin for _, begin, _ in marks[1:]), len(text)]
    for (number, _, first), end in zip(marks, ends, strict=True):
        found[number - 1] = text[first:end].strip()
    return found


def score(composite: Composite, text: str) -> list[PartScore]:
    """Every part of what a model said, scored. White space is ignored, so "( A )" is "(a)"."""
    found = []
    said_parts = split_answers(text, len(composite.parts))
    for task, said in zip(composite.parts, said_parts, strict=True):
        own, accepted = _squeezed(said), [_squeezed(answer) for answer in task.answers]
        contained = any(answer in own for answer in accepted)
        found.append(PartScore(task.task, bool(own), own in accepted, contained))
    return found


def composite_sequence(
    composite: Composite, encoder: PromptEncoder, experts: Mapping[str, int], form: Form
) -> AskedSequence:
    """The token ids of a composite question and its right answers, to be judged token by token.

    Args:
        experts: name of a task to its delta's place.
        form: ``together``: all questions, then all answers under their numbers, in one answer;
            ``turns``: each question in the model's own prompt, directly followed by its answer,
            for models that can't be told to number.
    """
    ids: list[int] = []
    routed: list[int] = []
    spans: list[tuple[int, int]] = []

    def add(piece: Sequence[int], expert: int) -> None:
        ids.extend(piece)
        routed.extend([expert] * len(piece))

    if form == "together":
        add(encoder.blind(composite.question), NONE)
    prompt = len(ids)
    for i, task in enumerate(composite.parts):
        place = experts[task.task]
        if form == "turns":
            add(encoder.blind(task.question), place)
        else:
            add(encoder.text(f"{chr(10) if i else ' '}{i + 1}."), place)
        last = form == "turns" or i == len(composite.parts) - 1
        answer = encoder.answer(task.answer) if last else encoder.text(" " + task.answer)
        spans.append((len(ids), len(ids) + len(answer)))
        add(answer, place)
    return AskedSequence(RoutedSequence(tuple(ids), prompt, tuple(routed)), tuple(spans))


def read_composites(path: Path) -> list[Composite]:
    """Composite questions of a JSON Lines file: ours, or MeteoRA's {prompt, response, id}.

    Raises:
        InvalidInput: if the file is missing or a line is no such record.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}")
    found = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
            found.append(_ours(row) if "parts" in row else _published(row))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"{path} line {number}: {type(error).__name__} {error}; expected an object with"
                " 'parts', or with 'prompt' and 'response'"
            ) from error
    return found


def _ours(row: Mapping[str, Any]) -> Composite:
    parts = tuple(_task(entry) for entry in row["parts"])
    shots = tuple(tuple(_task(entry) for entry in shot) for shot in row.get("shots", ()))
    return Composite(str(row["id"]), parts, shots, str(row.get("prompt", "")))


def _published(row: Mapping[str, Any]) -> Composite:
    """The last questions in the prompt are asked, those before are its examples."""
    answers = [answer.strip() for answer in row["response"].split(_SEPARATOR)]
    questions = re.findall(r"\[INST\](.*?)\[/INST\]", row["prompt"], re.DOTALL)[-len(answers) :]
    names = PUBLISHED if len(answers) == len(PUBLISHED) else ("",) * len(answers)
    parts = tuple(
        Task(f"{row.get('id', '')}:{i}", question.strip(), (answer,), (), (), name)
        for i, (question, answer, name) in enumerate(zip(questions, answers, names, strict=True))
    )
    return Composite(str(row.get("id", "")), parts, prompt=str(row["prompt"]))


def _task(entry: Mapping[str, Any]) -> Task:
    answers = tuple(str(answer) for answer in entry["answers"])
    if not answers:
        raise ValueError("a question has no answers")
    return Task(str(entry["id"]), str(entry["question"]), answers, (), (), str(entry["task"]))


def _plain(task: Task) -> dict[str, Any]:
    return {
        "id": task.id, "task": task.task, "question": task.question, "answers": list(task.answers)
    }  # fmt: skip


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split())


class _Decks:
    """The questions of each task, shuffled, and dealt one after the other."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self._cards: dict[str, list[Task]] = {}
        for task in tasks:
            self._cards.setdefault(task.task, []).append(task)
        self._cards.pop("", None)
        self._left: dict[str, list[int]] = {name: [] for name in self._cards}
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def names(self) -> list[str]:
        """Of the tasks, in the order they were met."""
        return list(self._cards)

    def draw(self, name: str, other_than: Task | None = None) -> Task:
        """The next question of a task."""
        cards = self._cards[name]
        if all(card == other_than for card in cards):
            raise InvalidInput(f"task {name!r} has no other question to be an example")
        while True:
            if not self._left[name]:
                order = torch.randperm(len(cards), generator=self._generator)
                self._left[name] = [int(i) for i in order]
            card = cards[self._left[name].pop()]
            if card != other_than:
                return card
