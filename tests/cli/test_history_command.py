"""``adb history``, ``adb rollback`` and ``--as-of``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run, rows


def _ingest_again(run: Run, home: Path, folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "kettle.txt").write_text(text, encoding="utf-8")
    assert run("ingest", folder, "-d", home).exit_code == 0


def test_history_and_rollback(run: Run, home: Path, tmp_path: Path) -> None:
    """A changed document has two versions; the first comes back, and the history says so."""
    _ingest_again(run, home, tmp_path / "new", "The kettle is of iron now, and stands on a stove.")
    done = run("rollback", "kettle.txt@1", "-d", home)
    assert done.stdout == "kettle.txt is as version 1 again, now version 3\n"
    changes = json.loads(run("history", "kettle.txt", "--json", "-d", home).stdout)
    told = [(change["op"], change["version"], change["kept"]) for change in changes]
    assert told == [("rollback", 3, True), ("put", 2, True), ("put", 1, True)]
    assert "rollback" in run("history", "kettle.txt", "-d", home).stdout
    assert TEXTS["kettle.txt"] in run("show", "kettle.txt", "--text", "-d", home).stdout


def test_as_of_asks_searches_and_lists_the_past(run: Run, home: Path, tmp_path: Path) -> None:
    """Before the change the old text is found, after it the new one; other moments are refused."""
    _ingest_again(run, home, tmp_path / "new", "The kettle is of iron now, and stands on a stove.")
    for words, version in ((("--as-of", "3"), 1), ((), 2)):
        hits = json.loads(run("search", "kettle", "--json", *words, "-d", home).stdout)
        assert {h["version"] for h in hits if h["document"] == "kettle.txt"} == {version}
    answer = rows(run("ask", "A kettle?", "--as-of", "3", "-k", "3", "--json", "-d", home).stdout)[
        0
    ]
    versions = {s["document"]: s["version"] for s in answer["sources"]}
    assert versions.get("kettle.txt", 1) == 1
    assert json.loads(run("list", "--as-of", "1999-01-01", "--json", "-d", home).stdout) == []
    assert len(json.loads(run("list", "--as-of", "2", "--json", "-d", home).stdout)) == 2
    for moment in ("tomorrow", "99"):
        done = run("search", "kettle", "--as-of", moment, "--json", "-d", home)
        assert json.loads(done.stderr)["error"]["code"] == "invalid_input"


def test_what_names_no_version_is_refused(run: Run, home: Path) -> None:
    """A rollback needs NAME@VERSION of a version that is kept."""
    for target, code in (
        ("kettle.txt", "invalid_input"),
        ("@1", "invalid_input"),
        ("kettle.txt@9", "not_found"),
        ("kettle.txt@0", "invalid_input"),
    ):
        done = run("rollback", target, "--json", "-d", home)
        assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (1, code)
    assert json.loads(run("history", "no", "--json", "-d", home).stderr)["error"]["code"] == (
        "not_found"
    )
