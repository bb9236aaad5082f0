"""``adb train gate`` and ``adb train composite``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_making import Run, rows


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    """Twelve questions of each of two tasks."""
    path = tmp_path / "tasks.jsonl"
    lines = [
        {"task": name, "prompt": f"{word} {i}", "response": f"{word[0]}{i}"}
        for name, word in (("one", "alpha"), ("two", "OMEGA"))
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_gate_is_trained_over_task_deltas(run: Run, home: Path, tasks: str) -> None:
    """A delta of each task, then the gate; it is listed among the parts."""
    failed = run("train", "gate", tasks, "--steps", "1", "-d", home)
    assert failed.exit_code == 1
    assert "adb train experts QUESTIONS --task 'one'" in failed.output
    made = run("train", "experts", tasks, "--task", "one", "--steps", "1", "-d", home)
    assert made.exit_code == 0, made.output
    assert "stored as one: delta " in made.output
    made = run("train", "experts", tasks, "--task", "two", "--steps", "1", "--json", "-d", home)
    assert rows(made.stdout)[-1]["document"] == "two"
    shown = run("train", "gate", tasks, "--steps", "1", "--turns", "2", "--json", "-d", home)
    assert shown.exit_code == 0, shown.output
    part = rows(shown.stdout)[-1]
    assert (part["kind"], len(part["facts"]["deltas"])) == ("gate", 2)
    assert part["facts"]["settings"]["turns"] == 2
    assert "gate@1" in run("train", "parts", "-d", home).output


def test_composites_are_written_without_a_home(run: Run, tasks: str, tmp_path: Path) -> None:
    """As many as asked for, in a file that is not written over."""
    out = tmp_path / "out.jsonl"
    words = ("train", "composite", tasks, out, "-n", "2", "--count", "5", "--shots", "1")
    made = run(*words, "--json")
    assert made.exit_code == 0, made.output
    assert rows(made.stdout) == [{"path": str(out), "composites": 5}]
    lines = rows(out.read_text(encoding="utf-8"))
    assert len(lines) == 5
    assert all({part["task"] for part in line["parts"]} == {"one", "two"} for line in lines)
    assert run(*words).exit_code == 1
