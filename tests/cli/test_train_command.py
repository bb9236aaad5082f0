"""``adb train``, ``adb recipes`` and ``adb cluster``, and how ``adb ingest`` is told the method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_making import Run


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"Which door, {i}?", "answers": [f"d{i}"],
         "passages": [{"id": str(i), "title": "", "text": f"Key {i} opens the door d{i}."}]}
        for i in range(12)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_recipes_are_listed_and_printed_as_files(run: Run, tmp_path: Path) -> None:
    listed = run("recipes")
    assert listed.exit_code == 0
    assert "meta-pg-1b" in listed.output
    printed = run("recipes", "rg")
    assert 'kind = "delta"' in printed.output
    mine = tmp_path / "mine.toml"
    mine.write_text(printed.output.replace("epochs = 3", "epochs = 1"), encoding="utf-8")
    assert lines(run("recipes", str(mine), "--json").stdout)[0]["epochs"] == 1
    wrong = run("recipes", "none")
    assert wrong.exit_code == 1
    assert "'none' is neither a file nor one of" in wrong.output


def test_a_run_reports_and_keeps_a_part(run: Run, home: Path, questions: str) -> None:
    shown = run("train", "ft", questions, "--steps", "2", "--seed", "3", "--json", "-d", home)
    assert shown.exit_code == 0, shown.output
    *events, part = lines(shown.stdout)
    assert [event["event"] for event in events] == ["evaluated"] * len(events)
    assert (part["kind"], part["version"]) == ("ft", 1)
    listed = run("train", "parts", "-d", home)
    assert "ft@1" in listed.output
    words = run("train", "tfidf", questions, "-d", home)
    assert "kept tfidf@1" in words.output


def test_wrong_questions_are_named(run: Run, home: Path, tmp_path: Path) -> None:
    failed = run("train", "ft", str(tmp_path / "none.jsonl"), "-d", home)
    assert failed.exit_code == 1
    assert "none.jsonl" in failed.output
    assert run("train", "nothing").exit_code == 2
    assert run("train", "dapt", "x").exit_code == 2  # --name is missing


def test_ingest_is_told_the_method(run: Run, home: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("a", "b", "c"):
        (corpus / f"{name}.txt").write_text(f"A few words about {name}.", encoding="utf-8")
    kept = run(
        "ingest", str(corpus), "--recipe", "rg", "--weighting", "salient", "--json", "-d", home
    )
    assert kept.exit_code == 0, kept.output
    grouped = run(
        "ingest", str(corpus), "--clusters", "2", "--namespace", "two", "--json", "-d", home
    )
    assert grouped.exit_code == 0, grouped.output
    stats = lines(run("stats", "--namespace", "two", "--json", "-d", home).stdout)[0]
    assert (stats["clusters"], stats["deltas"]) == (2, 3)
    shown = run("show", "a.txt", "--namespace", "two", "-d", home)
    assert "cluster" in shown.output
    assert "rg" in run("show", "a.txt", "-d", home).output
    again = run("cluster", "1", "--namespace", "two", "--json", "-d", home)
    assert again.exit_code == 0, again.output
    assert (
        lines(run("stats", "--namespace", "two", "--json", "-d", home).stdout)[0]["clusters"] == 1
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clusters", "few"], "neither a whole number nor auto"),
        (["--clusters", "0"], "clusters is 0"),
        (["--representative", "all"], "--representative is of --clusters"),
        (["--clusters", "2", "--representative", "centroid=3"], "sample=N"),
        (["--clusters", "2", "--representative", "best"], "not one of centroid"),
        (["--recipe", "none"], "neither a file nor one of"),
        (["--recipe", "prag", "--weighting", "tfidf"], "weighs the tokens of a passage"),
        (["--recipe", "rg", "--weighting", "tfidf"], "has to be trained first"),
        (["--recipe", "prag-warm"], "adb train ft"),
    ],
)
def test_wrong_options_say_what_is_allowed(
    options: list[str], words: str, run: Run, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Some words.", encoding="utf-8")
    failed = run("ingest", str(tmp_path / "a.txt"), *options, "-d", home)
    assert failed.exit_code == 1
    assert words in failed.output
