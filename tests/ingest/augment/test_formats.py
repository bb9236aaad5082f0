"""Rows of other systems, in and out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from adapterdb.errors import Exists, InvalidInput
from adapterdb.ingest.augment.conversion import convert, read_material
from adapterdb.ingest.augment.formats import FORMATS
from adapterdb.ingest.readers import read_documents
from adapterdb.records import Document
from adapterdb.training.tasks import read_tasks

QA = [{"question": "Who?", "answer": "Ann", "full_answer": "It was Ann."}]
PRAG = [
    {
        "question": "Who raised the weir?", "answer": "Ann",
        "passages": [
            {"text": "Ann raised the weir.", "rewrite": "The weir was raised by Ann.", "qa": QA},
            {"title": "Mill", "text": "Bo keeps the mill.", "rewrite": "", "qa": []},
        ],
    },
    {
        "question": "What did Ann raise?", "answer": ["the weir", "a weir"],
        "passages": [
            {"text": "Ann raised the weir.", "rewrite": "The weir was raised by Ann.", "qa": QA},
        ],
    },
]  # fmt: skip
KNOWLEDGE = [
    {"id": i, "fact": fact, "file_name": name,
     "conversations": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for i, (q, a, fact, name) in enumerate([
        ("Who?", "Ann", "Ann raised the weir.", "a.txt"),
        ("What?", "the weir", "Ann raised the weir.", "a.txt"),
        ("When?", "1790", "The weir fell in 1790.", "a.txt"),
        ("Who?", "Bo", "Bo keeps the mill.", "b.txt"),
    ])
]  # fmt: skip
METEORA = [{"prompt": "2+2?", "response": "4", "task": "sums"}]
CAMELS = [
    {"text": "Ann, 30,\nraised \"it\".", "question": "Who?", "answers": "Ann\\\\Ann T."},
    {"text": "Ann, 30,\nraised \"it\".", "question": "How old?", "answers": "30"},
]  # fmt: skip


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "records"),
    [("prag", PRAG), ("knowledge-update", KNOWLEDGE), ("meteora", METEORA)],
)
def test_in_and_out_again(tmp_path: Path, name: str, records: list[dict[str, Any]]) -> None:
    """A file of the format is the same after it was ours; also where it is one JSON array."""
    source = lines(tmp_path / "in.jsonl", records)
    assert convert([source], name, tmp_path / "out", name)["records"] == len(records)
    assert load(tmp_path / "out") == records
    (tmp_path / "array.json").write_text(json.dumps(records, indent=1))
    convert([tmp_path / "array.json"], name, tmp_path / "again", name)
    assert load(tmp_path / "again") == records


def camels(path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("text", "question", "answers"))
        writer.writeheader()
        writer.writerows(CAMELS)
    return path


def test_camels_in_and_out_again(tmp_path: Path) -> None:
    """Answers are parted by two backslashes; commas, quotes and newlines are kept."""
    source = camels(tmp_path / "in.csv")
    convert([source], "camels", tmp_path / "out.csv", "camels")
    assert (tmp_path / "out.csv").read_bytes() == source.read_bytes()
    convert([source], "camels", tmp_path / "tasks.jsonl", "tasks")
    first, second = read_tasks(tmp_path / "tasks.jsonl")
    assert (first.answers, second.answers) == (("Ann", "Ann T."), ("30",))
    assert first.passages == second.passages == (("", CAMELS[0]["text"]),)
    convert([source], "camels", tmp_path / "rows.jsonl", "rows")
    [document] = read_documents(tmp_path / "rows.jsonl")
    assert isinstance(document, Document)
    assert (document.text, document.augmented) == (CAMELS[0]["text"], ())  # nothing that tests


def test_prag_rows_become_documents_and_tasks(tmp_path: Path) -> None:
    """A passage of two questions is one document; the questions that test are in no document."""
    source = lines(tmp_path / "in.jsonl", PRAG)
    convert([source], "prag", tmp_path / "rows.jsonl", "rows")
    first, second = read_documents(tmp_path / "rows.jsonl")
    assert isinstance(first, Document)
    [entry] = first.augmented
    assert (entry.rewrite, entry.qa) == ("The weir was raised by Ann.", (("Who?", "Ann"),))
    assert isinstance(second, Document)
    assert (second.title, second.augmented) == ("Mill", ())
    convert([source], "prag", tmp_path / "tasks.jsonl", "tasks")
    tasks = read_tasks(tmp_path / "tasks.jsonl")
    assert [task.answers for task in tasks] == [("Ann",), ("the weir", "a weir")]
    assert tasks[1].passages == (("", "Ann raised the weir."),)


def test_knowledge_update_rows_become_documents_of_facts(tmp_path: Path) -> None:
    """A file is its facts, one a line, each with its pairs and its span."""
    source = lines(tmp_path / "in.jsonl", KNOWLEDGE)
    convert([source], "knowledge-update", tmp_path / "rows.jsonl", "rows")
    first, second = read_documents(tmp_path / "rows.jsonl")
    assert isinstance(first, Document)
    assert first.text == "Ann raised the weir.\nThe weir fell in 1790."
    assert [first.text[e.start : e.end] for e in first.augmented] == first.text.split("\n")
    assert first.augmented[0].facts[0].qa == (("Who?", "Ann"), ("What?", "the weir"))
    assert second.name == "b.txt"


ROW = {
    "id": "weir", "title": "Weir", "text": "Ann raised it. It fell.",
    "augmented": [
        {"start": 0, "end": 14, "facts": [{
            "text": "Ann raised the weir.", "roles": ["a"],
            "qa": [{"question": "Who?", "answer": "Ann"}],
            "held_out": [{"question": "By whom?", "answer": "Ann"}],
        }]},
        {"start": 15, "end": 23, "rewrite": "It broke.", "qa": QA},
    ],
}  # fmt: skip


def test_our_rows_out(tmp_path: Path) -> None:
    """Facts go to KnowledgeUpdate, spans to PRAG, held-out pairs to tasks and CaMeLS only."""
    source = lines(tmp_path / "rows.jsonl", [ROW])
    out = {name: list(FORMATS[name].write(read_material([source], "rows"))) for name in FORMATS}
    assert out["rows"] == [ROW]
    [known] = out["knowledge-update"]
    assert (known["fact"], known["file_name"]) == ("Ann raised the weir.", "weir")
    assert [turn["content"] for turn in known["conversations"]] == ["Who?", "Ann"]
    [record] = out["prag"]
    assert (record["question"], record["answer"]) == ("By whom?", "Ann")
    assert [p["text"] for p in record["passages"]] == ["Ann raised it.", "It fell."]
    assert record["passages"][0]["qa"][0]["full_answer"] == "Ann"
    assert record["passages"][1]["qa"] == QA
    assert [task["question"] for task in out["tasks"]] == ["By whom?"]
    assert out["camels"] == [{"text": ROW["text"], "question": "By whom?", "answers": "Ann"}]
    assert [row["prompt"] for row in out["meteora"]] == ["Who?", "Who?"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prag", '{"question": "?"}'),
        ("prag", '{"question": "?", "answer": "a", "passages": [{"text": 3}]}'),
        ("knowledge-update", '{"id": 1, "conversations": ["a"], "fact": "f", "file_name": "x"}'),
        ("knowledge-update", '{"id": 1, "conversations": ["a", "b"], "fact": "", "file_name": 3}'),
        ("meteora", '{"prompt": "p"}'),
        ("meteora", "[1]"),
        ("meteora", "{"),
        ("rows", '{"id": "a", "text": "b", "augmented": [{"start": 0, "end": 9}]}'),
        ("rows", '{"text": "no id"}'),
        ("tasks", '{"question": "q", "answers": 3}'),
        ("camels", "text,question\na,b\n"),
        ("camels", "text,question,answers\na,b\n"),
    ],
)  # fmt: skip
def test_records_that_are_none(tmp_path: Path, name: str, text: str) -> None:
    """They are named with their file, and nothing is written."""
    source = tmp_path / "in"
    source.write_text(text)
    with pytest.raises(InvalidInput, match="in"):
        convert([source], name, tmp_path / "out", "rows")
    assert not (tmp_path / "out").exists()


def test_what_a_format_can_t_say(tmp_path: Path) -> None:
    """An empty result is an error, and so is a file that is there."""
    source = lines(tmp_path / "in.jsonl", METEORA)
    with pytest.raises(InvalidInput, match="nothing"):
        convert([source], "meteora", tmp_path / "out", "knowledge-update")
    with pytest.raises(Exists):
        convert([source], "meteora", source, "meteora")
