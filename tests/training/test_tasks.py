"""Reading questions, and setting some of them aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.training.tasks import Task, read_tasks, set_aside

ROWS = [
    {
        "id": "q1", "question": "Who keeps bees?", "answers": ["Ada", "Ada Lund"],
        "passages": [
            {"id": "a", "title": "Bees", "text": "Ada Lund keeps bees."},
            {"id": "b", "title": "Ships", "text": "Ships sail."},
        ],
        "supporting": ["a"],
    },
    {"question": "No answer?", "answers": [], "passages": [{"id": "a", "text": "x"}]},
    {"question": "No passage?", "answers": ["x"], "passages": []},
    {"question": "Where?", "answers": ["here"], "passages": [{"text": "It is here."}]},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
def test_records_become_tasks(name: str, tmp_path: Path) -> None:
    first, last = read_tasks(write(tmp_path / name, ROWS))
    assert first == Task(
        "q1", "Who keeps bees?", ("Ada", "Ada Lund"),
        (("Bees", "Ada Lund keeps bees."), ("Ships", "Ships sail.")), (0,),
    )  # fmt: skip
    assert (first.answer, last.passages, last.gold) == ("Ada", (("", "It is here."),), (0,))


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [ROWS[0]] * 5 + [{"bad": 1}])
    assert len(read_tasks(path, limit=3)) == 3


def test_questions_alone_are_enough_where_no_passage_is_learned_from(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", ROWS)
    found = read_tasks(path, with_passages=False)
    assert [task.question for task in found] == ["Who keeps bees?", "No passage?", "Where?"]
    many = [Task(str(i), f"{i}?", ("x",), (), ()) for i in range(100)]
    kept, aside = set_aside(many, 0.3)
    assert 15 < len(aside) < 45
    assert len(kept) + len(aside) == 100


@pytest.mark.parametrize("row", [{"answers": ["x"]}, {"question": "?", "passages": ["x"]}, {}])
def test_a_wrong_line_is_named(row: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 2"):
        read_tasks(write(tmp_path / "q.jsonl", [ROWS[0], row]))


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "1" * 5_000])
def test_a_line_that_cannot_be_parsed_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 1"):
        read_tasks(tmp_path / "q.jsonl")


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no question with an answer"):
        read_tasks(write(tmp_path / "q.jsonl", ROWS[1:3]))
    with pytest.raises(InvalidInput, match="no file"):
        read_tasks(tmp_path / "missing.jsonl")


def test_no_passage_is_on_both_sides() -> None:
    tasks = [
        Task(str(i), f"Question {i}?", ("x",), (("", f"Passage {i % 200}."),), (0,))
        for i in range(600)
    ]
    kept, aside = set_aside(tasks, 0.25, seed=1)
    assert sorted((*kept, *aside), key=lambda t: int(t.id)) == tasks
    assert not {t.passages for t in kept} & {t.passages for t in aside}
    assert 0.15 < len(aside) / len(tasks) < 0.35
    assert set_aside(tasks[:300], 0.25, seed=1)[1] == [t for t in aside if int(t.id) < 300]
    assert set_aside(tasks, 0.25, seed=2)[1] != aside


def test_something_is_always_left_to_learn_from() -> None:
    task = Task("1", "?", ("x",), (("", "One."),), (0,))
    assert set_aside([task], 1.0) == ([task], [])


@pytest.mark.parametrize("field", ["question", "answer", "task"])
def test_a_lone_surrogate_is_named_with_its_line(tmp_path: Path, field: str) -> None:
    """Half a character is no text that a model could read."""
    row = {"question": "Who?", "answer": "Enna", "task": "lamps"}
    path = tmp_path / "half.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {field: "\ud800"}) + "\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read_tasks(path, with_passages=False)


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path) -> None:
    """As some editors write it; a line that is wrong is told what is asked of it."""
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"question": "Who?", "answers": ["Enna"]}\n')
    assert read_tasks(path, with_passages=False)[0].question == "Who?"
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"line 1: .*'question' \(or 'prompt'\)"):
        read_tasks(path, with_passages=False)
