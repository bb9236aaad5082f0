"""``adb explain``: files of answers, text for people and JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_making import Run

QUESTION = "When did the harbour of Almery open?"
SHORT = ("--max-tokens", "4", "-k", "2")


@pytest.fixture
def stored(run: Run, made_home: Path, tmp_path: Path) -> Path:
    """Two answers as JSON Lines."""
    file = tmp_path / "answers.jsonl"
    words = ("--mode", "hybrid", *SHORT, "--json", "-d", made_home)
    done = run("ask", "-", *words, stdin=f"{QUESTION}\nWhat hangs?\n")
    assert done.exit_code == 0, done.output
    file.write_text(done.stdout)
    return file


def test_stored_answers_are_explained(run: Run, made_home: Path, stored: Path) -> None:
    """A plan tree, shares and log-probabilities for people; the record for programs."""
    shown = run("explain", stored, "-d", made_home)
    assert shown.exit_code == 0, shown.output
    steps = (
        "answer  mode hybrid",
        "└── decode",
        "act  cat of 1 delta, slots",
        "load",
        "search",
        "vector",
    )
    for words in (*steps, "prompt  with text", "share", "nats", "harbour.md@1", QUESTION):
        assert words in shown.stdout, shown.stdout
    lines = run("explain", stored, "--json", "-d", made_home).stdout.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["question"], second["question"]) == (QUESTION, "What hangs?")
    assert first["plan"]["name"] == "answer"
    assert len(first["attribution"]["sources"]) == len(first["mixture"]) == 1


def test_one_answer_a_list_and_standard_input(
    run: Run, made_home: Path, stored: Path, tmp_path: Path
) -> None:
    """What explains the same answer is the same, however it is given."""
    lines = stored.read_text().splitlines()
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    one.write_text(json.dumps(json.loads(lines[0]), indent=2))
    several.write_text(f"[{','.join(lines)}]")

    def shares(*words: object, stdin: str | None = None) -> list[object]:
        done = run("explain", *words, "--json", "-d", made_home, stdin=stdin)
        assert done.exit_code == 0, done.output
        return [json.loads(line)["attribution"] for line in done.stdout.splitlines()]

    both = shares(several)
    assert shares(stored) == both
    assert shares("-", stdin=stored.read_text()) == both
    assert shares(one) == both[:1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no answer"),
        ("[]", "there is no answer"),
        ("{", "line 1 is not JSON"),
        ("3", "entry 1 is no JSON object"),
        ('[{"mode": "base"}]', "entry 1 has no field"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("1" * 5_000, "line 1 is not JSON"),  # more digits than Python takes
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_files_that_hold_no_answers(
    run: Run, made_home: Path, tmp_path: Path, text: str | bytes, said: str
) -> None:
    """Each is one clear error that names the place, before a model is loaded."""
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run("explain", file, "--json", "-d", made_home)
    assert done.exit_code == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "invalid_input"
    assert said in error["message"]


def test_a_deleted_document_is_named(run: Run, home: Path, stored: Path) -> None:
    """Its delta gets no share, and the note says why."""
    run("delete", "harbour.md", "--yes", "-d", home)
    shown = run("explain", stored, "-d", home)
    assert shown.exit_code == 0, shown.output
    assert "of harbour.md@1 has been deleted or forgotten since" in shown.stderr


def test_an_answer_is_explained_when_it_is_given(run: Run, made_home: Path) -> None:
    """Text, then why; in JSON both together, as 'adb explain' takes them, too. Streamed alike."""
    words = ("ask", QUESTION, "--mode", "adapter", *SHORT, "--explain", "-d", made_home)
    for stream in ("--stream", "--no-stream"):
        shown = run(*words, stream)
        assert shown.exit_code == 0, shown.output
        bare = run("ask", QUESTION, "--mode", "adapter", *SHORT, "--no-sources", "-d", made_home)
        assert shown.stdout.startswith(bare.stdout)
        assert "└── decode  1 question in the batch" in shown.stdout
        assert "log-probability of" in shown.stdout
    both = json.loads(run(*words, "--json").stdout)
    assert list(both) == ["answer", "explanation"]
    again = run("explain", "-", "--json", "-d", made_home, stdin=json.dumps(both))
    assert json.loads(again.stdout)["attribution"] == both["explanation"]["attribution"]


def test_a_gates_choices_are_a_table_of_layers(run: Run, made_home: Path) -> None:
    words = ("--adapter", "kettle.txt", "--adapter", "harbour.md", "--compose", "arrow")
    shown = run("ask", "q?", "--mode", "adapter", *words, *SHORT, "--explain", "-d", made_home)
    assert shown.exit_code == 0, shown.output
    assert "arrow of 2 deltas" in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines()]
    head = next(i for i, cells in enumerate(lines) if cells[:1] == ["layer"])
    assert len(lines[head]) == 3
    assert [cells[0] for cells in lines[head + 1 : head + 3]] == ["0", "1"]
