"""``adb list``, ``adb show`` and ``adb delete``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run


def test_list_filters_and_pages(run: Run, made_home: Path) -> None:
    """``list`` and ``ls`` are the same; filter, limit and offset act."""
    every = json.loads(run("list", "--json", "-d", made_home).stdout)
    assert sorted(document["name"] for document in every) == sorted(TEXTS)
    assert json.loads(run("ls", "--json", "-d", made_home).stdout) == every
    page = run("ls", "--limit", "1", "--offset", "1", "--json", "-d", made_home)
    assert json.loads(page.stdout) == every[1:2]
    old = run("ls", "--where", "year < 1900", "--json", "-d", made_home)
    assert [document["title"] for document in json.loads(old.stdout)] == ["Harbour"]
    assert "law/salt.txt" in run("ls", "-d", made_home).stdout


def test_list_namespaces(run: Run, made_home: Path) -> None:
    """One name on each line, or a JSON list."""
    assert run("list", "namespaces", "-d", made_home).stdout == "default\n"
    assert json.loads(run("list", "namespaces", "--json", "-d", made_home).stdout) == ["default"]


def test_show_a_document_and_a_delta(run: Run, made_home: Path) -> None:
    """A document shows its deltas; a delta is found by the beginning of its id."""
    shown = json.loads(run("show", "kettle.txt", "--text", "--json", "-d", made_home).stdout)
    assert shown["document"]["name"] == "kettle.txt"
    assert shown["text"] == TEXTS["kettle.txt"]
    (delta,) = shown["deltas"]
    words = ("show", delta["id"][:10], "--text", "-d", made_home)
    assert json.loads(run(*words, "--json").stdout) == {
        "delta": delta,
        "text": TEXTS["kettle.txt"],
    }
    assert TEXTS["kettle.txt"] in run(*words).stdout
    assert delta["id"][:12] in run("show", "kettle.txt@1", "-d", made_home).stdout


def test_show_what_is_not_there(run: Run, made_home: Path) -> None:
    """The error names the document that was asked for."""
    done = run("show", "no", "--json", "-d", made_home)
    assert done.exit_code == 1
    error = json.loads(done.stderr)["error"]
    assert (error["code"], "'no'" in error["message"]) == ("not_found", True)


def test_delete_without_a_terminal_needs_yes(run: Run, home: Path) -> None:
    """Nothing is deleted without a word."""
    done = run("delete", "kettle.txt", "--json", "-d", home)
    assert done.exit_code == 1
    assert json.loads(done.stderr)["error"]["code"] == "needs_yes"
    assert run("show", "kettle.txt", "-d", home).exit_code == 0


def test_delete_by_name_and_by_filter(run: Run, home: Path) -> None:
    """A dry run only counts; what is deleted is neither shown nor found."""
    dry = run("delete", "--where", "year < 1900", "--dry-run", "--json", "-d", home)
    assert json.loads(dry.stdout) == {"deleted": 0, "matched": 1, "dry_run": True}
    gone = run("delete", "--where", "year < 1900", "--yes", "--json", "-d", home)
    assert json.loads(gone.stdout) == {"deleted": 1, "matched": 1, "dry_run": False}
    assert run("delete", "kettle.txt", "--yes", "-d", home).stdout == (
        "deleted 1 document from default\n"
    )
    assert run("show", "kettle.txt", "-d", home).exit_code == 1
    hits = json.loads(run("search", "copper kettle harbour", "--json", "-d", home).stdout)
    assert {hit["document"] for hit in hits} == {"law/salt.txt"}


def test_delete_of_a_missing_name_deletes_nothing(run: Run, home: Path) -> None:
    """All names must be there."""
    done = run("delete", "kettle.txt", "no.txt", "--yes", "--json", "-d", home)
    assert json.loads(done.stderr)["error"]["code"] == "not_found"
    assert run("show", "kettle.txt", "-d", home).exit_code == 0
