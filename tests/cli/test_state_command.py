"""``adb stats`` and ``adb doctor``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run


def test_stats(run: Run, made_home: Path) -> None:
    """Counts and bytes, for people and programs."""
    found = json.loads(run("stats", "--json", "-d", made_home).stdout)
    assert (found["documents"], found["passages"], found["deltas"]) == (len(TEXTS),) * 3
    assert found["weight_bytes"] > 0
    assert found["reserve_bytes"] >= 8 * 2**20
    assert (found["changes"], found["indexed"], found["damaged"]) == (len(TEXTS), 1, 0)
    assert "documents" in run("stats", "-d", made_home).stdout


def test_doctor_finds_nothing_wrong(run: Run, made_home: Path) -> None:
    """A sound home passes every check of its own, and the exit is 0."""
    done = run("doctor", "--json", "-d", made_home)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert found["ok"]
    for name in ("packages", "device", "home", "store", "base model", "embedder", "shared start"):
        assert status[name] == "pass", name


def test_doctor_finds_a_lost_weight_file(run: Run, home: Path) -> None:
    """Catalog and files are compared; the exit is 1 and a line says what mends it."""
    for path in (home / "weights").rglob("*"):
        if path.is_file():
            path.unlink()
    done = run("doctor", "-d", home)
    assert done.exit_code == 1
    assert "\nfail          store: " in done.stdout
    assert "mend: " in done.stdout


def test_doctor_without_a_home(run: Run, tmp_path: Path) -> None:
    """What can't be checked is said to be so, and does not pass."""
    done = run("doctor", "--json", "-d", tmp_path)
    assert done.exit_code == 1
    status = {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert (status["home"], status["store"], status["base model"]) == (
        "fail",
        "could-not-run",
        "could-not-run",
    )
