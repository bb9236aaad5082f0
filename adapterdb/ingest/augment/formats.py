"""Rows of other systems: what each format holds, as our rows and tasks, and back.

    rows              ours: {"id", "title", "text", "augmented": [...]} (``json_lines.py``)
    tasks             ours: {"id", "question", "answers", "passages": [{"id", "title", "text"}]}
    prag              {question, answer, passages: [{text, rewrite, qa: [{question, answer,
                      full_answer}]}]}
    camels            CSV: text, question, answers (several parted by a double backslash)
    knowledge-update  {id, conversations: [user, assistant], fact, file_name}
    meteora           {prompt, response, task}

A question that tests goes to the tasks, a pair to learn from into a row: CaMeLS' questions and
PRAG's own are of the first kind. Knows no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from adapterdb.config import LimitConfig
from adapterdb.ingest.json_lines import document_of
from adapterdb.ingest.readers import check_document

ANSWERS_APART = "\\\\"  # two backslashes
Row = dict[str, Any]


@dataclass
class Material:
    """Documents with what was written about them, and questions that test.

    Args:
        rows: by id, in order.
        tasks: each names its passages by the ids of rows, in ``passages``.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    tasks: list[Row] = field(default_factory=list)

    def row(self, text: str, name: str = "", title: str = "") -> Row:
        """The row of a text, made if it is new.

        Raises:
            ValueError: if the name is that of another text.
        """
        name = name or _name_of(text)
        row = self.rows.setdefault(
            name, {"id": name, "title": title, "text": text, "augmented": []}
        )
        if row["text"] != text:
            raise ValueError(f"{name!r} names two texts")
        return row


class Format(NamedTuple):
    """One record into a material; a material into records.

    Attributes:
        read: adds a record; KeyError, TypeError, ValueError or Rejected if it is none.
    """

    read: Callable[[Material, Row], None]
    write: Callable[[Material], Iterator[Row]]


def _read_row(material: Material, record: Row) -> None:
    check_document(document_of(record, str(record["id"]), ""), LimitConfig())
    if material.rows.setdefault(str(record["id"]), record) is not record:
        raise ValueError(f"the id {record['id']!r} came before")


def _write_rows(material: Material) -> Iterator[Row]:
    yield from material.rows.values()


def _read_task(material: Material, record: Row) -> None:
    ids = []
    for passage in record.get("passages") or ():
        name = str(passage.get("id") or "")
        ids.append(material.row(_text(passage, "text"), name, passage.get("title") or "")["id"])
    task = {**record, "answers": _texts(record["answers"]), "passages": ids}
    material.tasks.append({**task, "question": _text(record, "question")})


def _write_tasks(material: Material) -> Iterator[Row]:
    """The tasks; those of the held-out questions where there are none."""
    for task in material.tasks or _held_out(material):
        passages = [
            {key: material.rows[name].get(key, "") for key in ("id", "title", "text")}
            for name in task["passages"]
        ]
        yield {**task, "passages": passages}


def _read_prag(material: Material, record: Row) -> None:
    ids = []
    for passage in record["passages"]:
        text = _text(passage, "text")
        row = material.row(text, str(passage.get("id") or ""), passage.get("title") or "")
        qa = [_pair(pair, "full_answer") for pair in passage.get("qa") or ()]
        entry = {"start": 0, "end": len(text), "rewrite": passage.get("rewrite") or "", "qa": qa}
        if (qa or entry["rewrite"]) and entry not in row["augmented"]:
            row["augmented"].append(entry)
        ids.append(row["id"])
    if record.get("question"):
        material.tasks.append(
            {
                "id": str(record.get("id") or f"prag:{len(material.tasks) + 1}"),
                "question": _text(record, "question"),
                "answers": _texts(record["answer"]),
                "passages": ids,
            }
        )


def _write_prag(material: Material) -> Iterator[Row]:
    """A record for each task; documents of none come in records without a question."""
    tasks = material.tasks or list(_held_out(material))
    asked = {name for task in tasks for name in task["passages"]}
    rest = [[name] for name in material.rows if name not in asked]
    for task in [*tasks, *({"question": "", "answers": [""], "passages": ids} for ids in rest)]:
        answers = task["answers"]
        yield {
            "question": task["question"],
            "answer": answers[0] if len(answers) == 1 else answers,
            "passages": [p for name in task["passages"] for p in _prag(material.rows[name])],
        }


def _prag(row: Row) -> Iterator[Row]:
    """PRAG's passages of a row: its augmented spans, or all of it."""
    whole = {"start": 0, "end": len(row["text"])}
    for entry in row.get("augmented") or [whole]:
        qa = entry.get("qa") or [pair for fact in entry.get("facts", ()) for pair in fact["qa"]]
        text = row["text"][entry["start"] : entry["end"]]
        passage: Row = {} if row["id"] == _name_of(text) else {"id": row["id"]}
        if text != row["text"]:
            passage["id"] = f"{row['id']}#{entry['start']}"
        if row.get("title"):
            passage["title"] = row["title"]
        pairs = [
            {
                "question": pair["question"],
                "answer": pair["answer"],
                "full_answer": pair.get("full_answer") or pair["answer"],
            }
            for pair in qa
        ]
        yield {**passage, "text": text, "rewrite": entry.get("rewrite", ""), "qa": pairs}


def _read_camels(material: Material, record: Row) -> None:
    row = material.row(_text(record, "text"))
    answers = [answer for answer in _text(record, "answers").split(ANSWERS_APART) if answer]
    if not answers:
        raise ValueError("'answers' is empty")
    material.tasks.append(
        {
            "id": f"camels:{len(material.tasks) + 1}",
            "question": _text(record, "question"),
            "answers": answers,
            "passages": [row["id"]],
        }
    )


def _write_camels(material: Material) -> Iterator[Row]:
    """A record for each task and passage."""
    for task in material.tasks or _held_out(material):
        for name in task["passages"]:
            yield {
                "text": material.rows[name]["text"],
                "question": task["question"],
                "answers": ANSWERS_APART.join(task["answers"]),
            }


def _read_knowledge(material: Material, record: Row) -> None:
    """A file's text is not in its rows: the document is its facts, one a line."""
    name, text = str(record["file_name"]), " ".join(_text(record, "fact").split())
    if not name or not text:
        raise ValueError("'file_name' and 'fact' must not be empty")
    question, answer = (
        turn if isinstance(turn, str) else str(turn.get("content", turn.get("value")))
        for turn in record["conversations"]
    )
    row = material.rows.setdefault(name, {"id": name, "title": "", "text": "", "augmented": []})
    for entry in row["augmented"]:
        if entry["facts"][0]["text"] == text:
            fact = entry["facts"][0]
            break
    else:
        start = len(row["text"]) + bool(row["text"])
        row["text"] += "\n" * bool(row["text"]) + text
        fact = {"text": text, "qa": [], "held_out": []}
        row["augmented"].append({"start": start, "end": start + len(text), "facts": [fact]})
    fact["qa"].append({"question": question, "answer": answer, "id": record["id"]})


def _write_knowledge(material: Material) -> Iterator[Row]:
    """A record for each pair that a fact is learned from."""
    for row in material.rows.values():
        for entry in row.get("augmented") or ():
            for number, fact in enumerate(entry.get("facts") or ()):
                for i, pair in enumerate(fact["qa"]):
                    yield {
                        "id": pair.get("id", f"{row['id']}#{entry['start']}/{number}/{i}"),
                        "conversations": [
                            {"role": "user", "content": pair["question"]},
                            {"role": "assistant", "content": pair["answer"]},
                        ],
                        "fact": fact["text"],
                        "file_name": row["id"],
                    }


def _read_meteora(material: Material, record: Row) -> None:
    material.tasks.append(
        {
            "id": f"meteora:{len(material.tasks) + 1}",
            "question": _text(record, "prompt"),
            "answers": [_text(record, "response")],
            "passages": [],
            "task": _text(record, "task"),
        }
    )


def _write_meteora(material: Material) -> Iterator[Row]:
    """A record for each task; where there are none, for each pair to learn from."""
    for task in material.tasks:
        yield {
            "prompt": task["question"],
            "response": task["answers"][0],
            "task": task.get("task", "questions"),
        }
    if not material.tasks:
        for row in material.rows.values():
            for pair in _learned(row):
                response = pair["answer"]
                yield {"prompt": pair["question"], "response": response, "task": "questions"}


FORMATS: dict[str, Format] = {
    "rows": Format(_read_row, _write_rows),
    "tasks": Format(_read_task, _write_tasks),
    "prag": Format(_read_prag, _write_prag),
    "camels": Format(_read_camels, _write_camels),
    "knowledge-update": Format(_read_knowledge, _write_knowledge),
    "meteora": Format(_read_meteora, _write_meteora),
}


def _learned(row: Row) -> Iterator[Row]:
    yield from row.get("qa") or ()
    for entry in row.get("augmented") or ():
        yield from entry.get("qa") or ()
        for fact in entry.get("facts") or ():
            yield from fact["qa"]


def _held_out(material: Material) -> Iterator[Row]:
    """Tasks out of the held-out pairs of facts."""
    for row in material.rows.values():
        for entry in row.get("augmented") or ():
            for number, fact in enumerate(entry.get("facts") or ()):
                for i, pair in enumerate(fact.get("held_out") or ()):
                    yield {
                        "id": f"{row['id']}#{entry['start']}/{number}/{i}",
                        "question": pair["question"],
                        "answers": [pair["answer"]],
                        "passages": [row["id"]],
                    }


def _name_of(text: str) -> str:
    return "text-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _text(record: Row, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"'{key}' is {type(value).__name__}; a string is needed")
    return value


def _texts(value: str | Iterable[Any]) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _pair(pair: Row, *optional: str) -> Row:
    found = {key: _text(pair, key) for key in ("question", "answer")}
    return found | {key: _text(pair, key) for key in optional if pair.get(key)}
