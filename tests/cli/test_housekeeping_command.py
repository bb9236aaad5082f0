"""``adb backup``, ``adb restore`` and ``adb optimize``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run


def test_backup_and_restore(run: Run, made_home: Path, tmp_path: Path) -> None:
    """A backup is a home that answers; a home restored from it too."""
    done = run("backup", tmp_path / "copy", "-d", made_home, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["documents"], report["deltas"]) == (len(TEXTS),) * 2
    assert (report["problems"], report["path"]) == ([], str(tmp_path / "copy"))
    asked = run("ask", "When did the harbour open?", "-d", tmp_path / "copy", "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["sources"]
    done = run("restore", tmp_path / "copy", "-d", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"restored {len(TEXTS)} documents")
    assert run("doctor", "-d", tmp_path / "again").exit_code == 0
    again = run("restore", tmp_path / "copy", "-d", tmp_path / "again", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stderr)["error"]["code"] == "exists"


def test_a_backup_with_damage_is_made_and_says_so(run: Run, home: Path, tmp_path: Path) -> None:
    """The exit is 1, and a line on stderr names what is damaged."""
    path = max(home.glob("weights/??/*.safetensors"), key=lambda path: path.stat().st_mtime)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    done = run("backup", tmp_path / "copy", "-d", home)
    assert done.exit_code == 1
    assert path.stem in done.stderr
    assert done.stdout.startswith("backed up")


def test_optimize(run: Run, home: Path) -> None:
    """The index of every namespace, or of one; for people and programs."""
    done = run("optimize", "-d", home, "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert (found["namespace"], found["rows"], found["rebuilt"]) == ("default", len(TEXTS), False)
    assert json.loads(run("optimize", "-d", home, "--namespace", "x", "--json").stdout) == []
    assert "default" in run("optimize", "-d", home).stdout
