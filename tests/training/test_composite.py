"""Composite questions: drawn from task sets, written, taken apart again, and scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from gate_making import NAMES, letter_tasks
from meta_making import sharp_base

from adapterdb.errors import Exists, InvalidInput
from adapterdb.training.gate.composite import (
    PUBLISHED,
    Composite,
    compose,
    composite_sequence,
    read_composites,
    score,
    split_answers,
    write_composites,
)
from adapterdb.training.gate.objective import NONE
from adapterdb.training.tasks import Task, read_tasks

TASKS = letter_tasks(0, 5)
PLACES = {name: place for place, name in enumerate(NAMES)}


def test_questions_are_of_different_tasks_and_take_turns() -> None:
    """Each composite asks n tasks; all questions of a task come before one comes again."""
    made = compose(TASKS, 2, 15, seed=4)
    assert all(len({task.task for task in c.parts}) == 2 for c in made)
    times = Counter(task.id for c in made for task in c.parts)
    for name in NAMES:
        counts = [times[f"{name}{i}"] for i in range(5)]
        assert max(counts) - min(counts) <= 1
    assert compose(TASKS, 2, 15, seed=4) == made != compose(TASKS, 2, 15, seed=5)


def test_shots_are_other_questions_of_the_same_tasks() -> None:
    """In the order of the parts, from where they are to be taken, answered in the prompt."""
    others = letter_tasks(20, 3)
    for source, allowed in ((None, TASKS), (others, others)):
        for c in compose(TASKS, 3, 8, shots=2, shots_from=source):
            assert [[t.task for t in shot] for shot in c.shots] == [[t.task for t in c.parts]] * 2
            assert all(t in allowed and t not in c.parts for shot in c.shots for t in shot)
            assert c.question.count("2. ") == 5  # questions and answers twice, and the questions
            assert c.question.index(c.shots[0][0].answer) < c.question.index(c.parts[0].question)


def test_what_cannot_be_drawn_is_named() -> None:
    """Too few tasks, nothing that fits, no other question for a shot."""
    with pytest.raises(InvalidInput, match="a composite of 4 needs"):
        compose(TASKS, 4, 1)
    with pytest.raises(InvalidInput, match="none of 200 composites"):
        compose(TASKS, 2, 1, fits=lambda _: False)
    with pytest.raises(InvalidInput, match="no other question"):
        compose(letter_tasks(0, 1), 2, 1, shots=1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1. yes\n2. (A)\n3. 12", ["yes", "(A)", "12"]),
        ("yes 2 . no 3) it is 2.5 of 3", ["yes", "no", "it is 2.5 of 3"]),
        ("1. only this", ["only this", "", ""]),
        ("1. a 3. c", ["a", "", "c"]),
        ("2. b", ["", "b", ""]),
        ("", ["", "", ""]),
        ("x@@@@\n1. y@@@@\nz", ["x", "1. y", "z"]),
        ("x@@@@\ny", ["x", "y", ""]),
    ],
)
def test_answers_are_found_by_their_numbers(text: str, wanted: list[str]) -> None:
    """In order, also without the first number, with gaps, and between MeteoRA's marks."""
    assert split_answers(text, 3) == wanted


def test_every_part_is_scored() -> None:
    """Case and white space don't count; containing the answer is less than being it."""
    parts = tuple(Task(n, "?", (a, "other"), (), (), n) for n, a in zip("abc", ("(A)", "Yes", "7"),
                                                                        strict=True))  # fmt: skip
    found = score(Composite("x", parts), "1. ( a ) 2. yes, of course")
    assert [(p.task, p.answered, p.exact, p.contained) for p in found] == [
        ("a", True, True, True), ("b", True, False, True), ("c", False, False, False),
    ]  # fmt: skip
    whole = Composite("x", parts)
    assert all(p.exact for p in score(whole, whole.answer))


@pytest.mark.parametrize("form", ["together", "turns"])
def test_sequences_know_whose_token_is_whose(form: str, tiny_folder: Callable[[str], Path]) -> None:
    """Spans hold the right answers; every answer token belongs to its task's delta."""
    encoder = sharp_base(tiny_folder("llama")).encoder
    (c,) = compose(TASKS, 3, 1)
    sequence, spans = composite_sequence(c, encoder, PLACES, form)  # type: ignore[arg-type]
    for task, (first, last) in zip(c.parts, spans, strict=True):
        assert encoder.decode(sequence.ids[first:last]).strip() == task.answer
        assert set(sequence.experts[first:last]) == {PLACES[task.task]}
    whole = encoder.decode(sequence.ids)
    if form == "together":
        assert (*encoder.blind(c.question), *encoder.answer(c.answer)) == sequence.ids
        assert sequence.experts[: sequence.loss_from] == (NONE,) * sequence.loss_from
    else:
        assert NONE not in sequence.experts
        assert all(whole.count(task.question) == 1 for task in c.parts)


def test_files_are_written_and_read_again(tmp_path: Path) -> None:
    """One split is asked, shots are of the training part, and nothing is overwritten."""
    source, out = tmp_path / "tasks.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"id": t.id, "task": t.task, "prompt": t.question, "response": t.answer,
         "split": "test" if i % 2 else "train"}
        for i, t in enumerate(letter_tasks(0, 8))
    ]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert write_composites(source, out, n=2, count=6, shots=1, split="test", longest=150) == 6
    train = {task.id for task in read_tasks(source, with_passages=False, split="train")}
    made = read_composites(out)
    for c in made:
        assert not {task.id for task in c.parts} & train
        assert {task.id for shot in c.shots for task in shot} <= train
        assert len(c.question) <= 150
    assert [t.question for t in read_tasks(out, with_passages=False)] == [c.question for c in made]
    with pytest.raises(Exists):
        write_composites(source, out, n=2, count=6)
    with pytest.raises(InvalidInput, match="n is 1"):
        write_composites(source, tmp_path / "none.jsonl", n=1)


def test_published_composites_are_read(tmp_path: Path) -> None:
    """The last ten questions of the prompt are asked; answers stand between the marks."""
    asked = "\n\n".join(f"[INST] Question {i}? [/INST]" for i in range(30))
    row = {"prompt": asked, "response": "@@@@\n".join(f"a{i}" for i in range(10)), "id": "mc:0"}
    path = tmp_path / "published.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (c,) = read_composites(path)
    assert c.question == asked
    assert tuple(task.task for task in c.parts) == PUBLISHED
    assert [task.question for task in c.parts] == [f"Question {i}?" for i in range(20, 30)]
    assert all(p.exact for p in score(c, row["response"]))
    path.write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 1"):
        read_composites(path)
