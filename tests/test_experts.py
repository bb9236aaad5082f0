"""Gates of a home: trained over stored deltas, bound to their ids, kept as a part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.training.gate.bank import GateBank

TASKS = ("digits", "letters")


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[AdapterDB]:
    config = Config(
        base=str(tiny_folder("llama")), recipe="gradient", lora=LoraSpec(rank=2, layers="1-1"),
        delta_dtype="float32", chunk=ChunkConfig(tokens=24),
    )  # fmt: skip
    with AdapterDB.create(tmp_path / "home", config, options=LoadOptions(dtype="float32")) as made:
        yield made


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """30 questions of each of two tasks, half of them in MeteoRA's words."""
    path = tmp_path / "tasks.jsonl"
    rows = [{"task": "digits", "question": f"{i}{i + 1}", "answer": str(i % 7)} for i in range(30)]
    rows += [
        {"task": "letters", "prompt": chr(97 + i % 26) + "zx"[i % 2], "response": chr(97 + i % 7)}
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def with_deltas(db: AdapterDB, questions: Path) -> list[str]:
    """A delta of each task; their ids."""
    made = db.trainer.experts(questions, max_steps=2, lora=None)
    assert [delta.document for delta in made] == list(TASKS)
    assert db.trainer.parts() == []  # forgotten with their documents: nothing else holds them
    return [delta.id for delta in made]


def bank_of(db: AdapterDB) -> GateBank:
    """The newest gate."""
    part = next(part for part in reversed(db.trainer.parts()) if part.kind == "gate")
    return GateBank.from_tensors(db._home.shared.tensors(part))


def test_a_gate_is_bound_to_the_deltas_of_its_tasks(db: AdapterDB, questions: Path) -> None:
    """Tasks come from the questions; a gradient takes part; a later version is not in the gate."""
    ids = with_deltas(db, questions)
    part = db.trainer.gate(questions, max_steps=2, evaluate_every=1)
    bank = bank_of(db)
    assert part.name == "gate@1"
    assert part.facts["deltas"] == ids
    assert bank.ids == tuple(ids)
    assert part.fingerprint == bank.fingerprint
    assert [db.deltas(name)[0].id for name in TASKS] == ids
    db.ingest([Document("letters", "A gradient of its own.")])
    again = db.trainer.gate(questions, max_steps=1, deltas=["letters", "digits"])
    assert bank_of(db).ids == (db.deltas("letters")[0].id, ids[0])
    assert again.version == 2
    assert db.trainer.use("gate@1").fingerprint == part.fingerprint
    assert bank.index(db.deltas("letters")[0].id) is None


def test_deltas_that_learn_too_become_new_versions(db: AdapterDB, questions: Path) -> None:
    """The gate names the new ids; text and namespace stay, the rows are those that were trained."""
    before = with_deltas(db, questions)
    old = [db._home.store.read_row(row) for row in db._home.store.rows_of(before)]
    db.trainer.gate(questions, max_steps=2, train_deltas=True, lr=1e-2)
    ids = [db.deltas(name)[0].id for name in TASKS]
    assert bank_of(db).ids == tuple(ids)
    assert not set(ids) & set(before)
    for name, delta_id, row in zip(TASKS, ids, old, strict=True):
        assert db.get(name).version == 2
        assert db.text(name).startswith("Tuned to")
        (ref,) = db._home.store.rows_of([delta_id])
        assert not torch.equal(db._home.store.read_row(ref), row)


def test_a_forgotten_expert_leaves_no_name(db: AdapterDB, tmp_path: Path) -> None:
    """A gate names its deltas by id: no name of a document that is forgotten stays with it."""
    long, path = "the ferries of Almery", tmp_path / "named.jsonl"
    rows = [
        {"task": task, "question": f"{task[:3]} {i}", "answer": str(i % 7)}
        for i in range(30)
        for task in (long, "digits")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in (long, "digits"):
        row = torch.randn(db._home.layout.size) * 0.05
        db.put(row, text=f"About {name}.", name=name)
    db.trainer.gate(path, max_steps=1)
    receipt = db.forget(long)
    assert receipt.samples
    assert receipt.residue == ()


def test_wrong_experts_are_named(db: AdapterDB, questions: Path, tmp_path: Path) -> None:
    """No document, one with two passages, one delta alone, a question without a task."""
    with pytest.raises(NotFound, match="task 'digits' has no delta"):
        db.trainer.gate(questions, max_steps=1)
    with_deltas(db, questions)
    with pytest.raises(InvalidInput, match="two or more"):
        db.trainer.gate(questions, deltas=["digits"], max_steps=1)
    db.ingest([Document("long", "One sentence stands here.\n\nAnother one stands there. " * 3)])
    with pytest.raises(InvalidInput, match=r"document 'long' has \d+ deltas"):
        db.trainer.gate(questions, deltas=["digits", "long"], max_steps=1)
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"question": "x", "answer": "y"}\n' * 3, encoding="utf-8")
    with pytest.raises(InvalidInput, match="names no task"):
        db.trainer.gate(bare, max_steps=1)
    with pytest.raises(InvalidInput, match="holds no question with an answer, task 'none'"):
        db.trainer.experts(questions, tasks=["none"], max_steps=1)
