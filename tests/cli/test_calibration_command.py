"""``adb train calibration``, and ``--mode auto`` by what it learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_making import Run

from adapterdb import AdapterDB, LoadOptions
from adapterdb.answers import MODES
from adapterdb.errors import InvalidInput


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """20 questions about the corpus; no passages are needed."""
    asked = ("When did the harbour {} open?", "What kettle {} hangs?", "Which law {} forbids salt?")
    rows = [{"question": asked[i % 3].format(i), "answers": [str(1874 + i)]} for i in range(20)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_calibration_is_kept_with_how_it_was_made(run: Run, home: Path, questions: Path) -> None:
    """With cross-validated F1 of every mode and auto; mode auto answers by it."""
    words = ("train", "calibration", questions, "-k", "2", "--tolerance", "0.1", "-d", home)
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    *events, part = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {"event": "answered", "answers": 80, "of": 80}
    assert (part["kind"], part["version"]) == ("calibration", 1)
    facts = part["facts"]
    assert list(facts["f1"]) == [*MODES, "auto"]
    assert (facts["questions"], facts["k"], facts["composition"], facts["tolerance"]) == (
        20, 2, "cat", 0.1,
    )  # fmt: skip
    assert facts["prompt_tokens"]["rag"] > facts["prompt_tokens"]["adapter"] > 0
    assert all(ms > 0 for ms in facts["ms"].values())
    asked = run("ask", "What hangs?", "--mode", "auto", "--max-tokens", "3", "--json", "-d", home)
    answer = json.loads(asked.stdout)
    assert answer["mode"] in MODES
    assert answer["note"].startswith("auto: ")
    assert "it was calibrated with k 2, composition cat" in answer["note"]
    again = run(
        "ask", "What hangs?", "--mode", "auto", "-k", "2", "--max-tokens", "3", "--json", "-d", home
    )
    assert "it was calibrated with" not in json.loads(again.stdout)["note"]
    with AdapterDB.open(home, options=LoadOptions(dtype="float32")) as db:
        assert db.trainer.parts()[-1].facts == facts


def test_without_one_auto_says_what_to_do(run: Run, made_home: Path) -> None:
    done = run("ask", "What hangs?", "--mode", "auto", "--max-tokens", "3", "-d", made_home)
    assert done.exit_code == 0, done.output
    assert "not calibrated: run 'adb train calibration QUESTIONS'" in done.stderr


def test_too_few_questions_are_refused(run: Run, home: Path, questions: Path) -> None:
    """And so is a tolerance that makes no sense; nothing is kept."""
    few = run("train", "calibration", questions, "--limit", "5", "-d", home)
    assert few.exit_code == 1
    assert "something relevant is stored for 5 of 5 questions" in few.output
    wrong = run("train", "calibration", questions, "--tolerance", "2", "-d", home)
    assert "tolerance is 2.0" in wrong.output
    with AdapterDB.open(home) as db:
        assert db.trainer.parts() == []


def test_nothing_is_asked_of_a_home_that_can_not_keep_it(home: Path, questions: Path) -> None:
    from adapterdb.errors import StorageFailed

    seen = []
    with AdapterDB.open(home, read_only=True) as db, pytest.raises((StorageFailed, InvalidInput)):
        db.trainer.calibration(questions, on_progress=lambda *done: seen.append(done))
    assert seen == []


def test_a_question_that_can_not_be_asked_is_named(run: Run, home: Path, tmp_path: Path) -> None:
    """By its id or line, before anything is asked."""
    path = tmp_path / "odd.jsonl"
    rows = [{"question": "What hangs?", "answers": ["1"]}, {"question": "a\x00b", "answers": ["1"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    failed = run("train", "calibration", path, "-d", home)
    assert failed.exit_code == 1
    assert "'odd:2'" in failed.output
