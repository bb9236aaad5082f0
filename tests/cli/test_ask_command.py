"""``adb ask`` and ``adb search``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_making import Run, rows

QUESTION = "When did the harbour of Almery open?"
SHORT = ("--max-tokens", "4")


@pytest.mark.parametrize("mode", ["base", "rag", "adapter", "hybrid"])
def test_every_mode_answers_with_its_sources(run: Run, made_home: Path, mode: str) -> None:
    """The JSON is the answer's record; base leans on nothing."""
    done = run("ask", QUESTION, "--mode", mode, *SHORT, "--json", "-d", made_home)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["question"], answer["mode"]) == (QUESTION, mode)
    assert answer["timings_ms"]["total"] > 0
    documents = [source["document"] for source in answer["sources"]]
    assert documents[:1] == ([] if mode == "base" else ["harbour.md"])


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_text_for_people(run: Run, made_home: Path, stream: str) -> None:
    """Streamed or not, the answer comes first and then a table of sources, unless unwanted."""
    done = run("ask", QUESTION, stream, *SHORT, "-d", made_home)
    assert done.exit_code == 0, done.output
    assert "harbour.md@1" in done.stdout
    bare = run("ask", QUESTION, stream, "--no-sources", *SHORT, "-d", made_home)
    assert done.stdout.startswith(bare.stdout)
    assert "harbour.md" not in bare.stdout


def test_several_questions(run: Run, made_home: Path, tmp_path: Path) -> None:
    """From standard input or a file, each question gives one line, in order."""
    asked = ["What hangs?", "What is forbidden?"]
    done = run("ask", "-", *SHORT, "--json", "-d", made_home, stdin="\n\n".join(asked) + "\n")
    assert [answer["question"] for answer in rows(done.stdout)] == asked
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"question": q}) + "\n" for q in asked))
    again = run("ask", "--questions", file, *SHORT, "--json", "-d", made_home)
    assert [a["text"] for a in rows(again.stdout)] == [a["text"] for a in rows(done.stdout)]


def test_named_deltas_act_with_their_weights(run: Run, made_home: Path) -> None:
    """--adapter takes the place of the search."""
    words = ("--mode", "adapter", "--adapter", "kettle.txt=0.25", "--adapter", "law/salt.txt")
    answer = json.loads(run("ask", "q?", *words, *SHORT, "--json", "-d", made_home).stdout)
    assert [weight for _, weight in answer["mixture"]["parts"]] == [0.25, 1.0]


def test_nothing_relevant_is_an_answer(run: Run, made_home: Path) -> None:
    """Where no document is near enough, the base model answers and a note says so."""
    done = run("ask", "q?", "--min-similarity", "1", *SHORT, "-d", made_home)
    assert done.exit_code == 0
    assert "note: nothing relevant is stored" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([""], "invalid_input"),
        (["x" * 9000], "invalid_input"),
        (["a\x1b[2Jb"], "invalid_input"),
        (["q", "-k", "0"], "invalid_input"),
        (["q", "-k", "1000000000000"], "invalid_input"),
        (["q", "--temperature", "-1"], "invalid_input"),
        (["q", "--temperature", "nan"], "invalid_input"),
        (["q", "--top-p", "0"], "invalid_input"),
        (["q", "--max-tokens", "0"], "invalid_input"),
        (["q", "--min-similarity", "7"], "invalid_input"),
        (["q", "--namespace", ""], "invalid_input"),
        (["q", "--where", "1; drop table documents"], "bad_filter"),
        (["q", "--adapter", "nothing-of-the-kind"], "not_found"),
        (["q", "--adapter", "kettle.txt", "--mode", "rag"], "invalid_input"),
        (["-"], "invalid_input"),
    ],
)
def test_what_can_not_be_asked(run: Run, made_home: Path, words: list[str], code: str) -> None:
    """Each is one clear error with a code."""
    done = run("ask", *words, "--json", "-d", made_home, stdin="")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"]["code"] == code


@pytest.mark.parametrize("line", ["{", "[]", '{"question": 3}', ""])
def test_bad_question_files(run: Run, made_home: Path, tmp_path: Path, line: str) -> None:
    """A file that holds no questions is refused before anything is loaded."""
    file = tmp_path / "q.jsonl"
    file.write_text(line)
    done = run("ask", "--questions", file, "--json", "-d", made_home)
    assert json.loads(done.stderr)["error"]["code"] == "invalid_input"


@pytest.mark.parametrize("kind", ["hybrid", "vector", "text"])
def test_search(run: Run, made_home: Path, kind: str) -> None:
    """Hits come best first, by every kind of search, and obey the filter."""
    words = ("search", "copper kettle", "--kind", kind, "-k", "1", "-d", made_home)
    (hit,) = json.loads(run(*words, "--json").stdout)
    assert (hit["document"], hit["rank"]) == ("kettle.txt", 1)
    assert "kettle.txt@1" in run(*words).stdout
    assert json.loads(run(*words, "--where", "year > 3000", "--json").stdout) == []


def test_a_home_that_can_not_be_written_still_answers(
    run: Run, home: Path, mounted: Callable[[str], Path]
) -> None:
    """On a read-only file system every reading command works, and a writing one says why not."""
    place = Path(shutil.copytree(home, mounted("rw") / "home"))
    mounted("ro")
    answer = json.loads(run("ask", QUESTION, *SHORT, "--json", "-d", place).stdout)
    assert answer["sources"][0]["document"] == "harbour.md"
    for words in (
        ("search", "kettle"),
        ("list",),
        ("history", "kettle.txt"),
        ("stats",),
        ("export", "kettle.txt", home / "out"),
    ):
        assert run(*words, "--json", "-d", place).exit_code == 0, words
    done = run("delete", "kettle.txt", "--yes", "--json", "-d", place)
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (1, "read_only")
