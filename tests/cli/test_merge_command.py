"""``adb merge``, and ``adb export --merged``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import Run

THREE = ("harbour.md", "kettle.txt", "law/salt.txt")


def test_merging_and_what_comes_of_it(run: Run, home: Path) -> None:
    """The merged delta is listed, searched and asked under its name, and goes with a parent."""
    words = ("merge", *THREE, "--into", "all", "--compose", "svd", "--tag", "kind=sum")
    delta = json.loads(run(*words, "--json", "-d", home).stdout)
    assert (delta["kind"], delta["document"], delta["version"]) == ("merged", "all", 1)
    found = json.loads(run("search", "merged", "-k", "4", "--json", "-d", home).stdout)
    (text,) = [hit["text"] for hit in found if hit["document"] == "all"]
    assert text.startswith("Merged from: Harbour (harbour.md), ")
    asked = run("ask", "Which kettle?", "--adapter", "all=0.5", "--mode", "adapter", "--json",
                "-d", home)  # fmt: skip
    assert json.loads(asked.stdout)["mixture"]["parts"] == [[delta["id"], 0.5]]
    again = run("merge", *THREE[:2], "--into", "all", "--weight", "harbour.md=0.7",
                "--compose", "ties", "--density", "0.4", "--strength", "2", "--text", "-",
                "-d", home, stdin="Harbours and kettles.")  # fmt: skip
    assert again.stdout.endswith(" as all@2\n"), again.output
    (hit,) = json.loads(
        run("search", "harbours and kettles", "-k", "1", "--json", "-d", home).stdout
    )
    assert hit["text"] == "Harbours and kettles."
    assert run("delete", "kettle.txt", "--yes", "-d", home).exit_code == 0
    assert run("show", "all", "-d", home).exit_code == 1


def test_writing_a_merged_model(run: Run, home: Path, tmp_path: Path) -> None:
    """The folder is the base of a new home; a folder that is there is not written into."""
    words = ("export", "harbour.md=0.5", "kettle.txt", tmp_path / "model", "--merged", "-d", home)
    done = run(*words)
    assert done.stdout == f"{tmp_path / 'model'}\n", done.output
    new = tmp_path / "new"
    assert run("init", new, "--base", tmp_path / "model", "--rank", "2").exit_code == 0
    assert run("ask", "What?", "--mode", "base", "-d", new).exit_code == 0
    assert run(*words).exit_code == 1


def test_what_can_not_be_merged(run: Run, home: Path) -> None:
    """Unknown names, weights of others, a composition of another rank, and misuse have codes."""
    for words, code in (
        (["no.txt"], "not_found"),
        (["kettle.txt", "--weight", "other=1"], "invalid_input"),
        ([*THREE, "--density", "2"], "invalid_input"),
        (["kettle.txt", "--text", "no such file"], "unreadable"),
    ):
        done = run("merge", *words, "--into", "x", "--json", "-d", home)
        assert done.exit_code == 1, words
        assert json.loads(done.stderr)["error"]["code"] == code, words
    assert run("merge", "kettle.txt", "-d", home).exit_code == 2
    assert run("merge", *THREE, "--into", "x", "--compose", "gate", "-d", home).exit_code == 2
