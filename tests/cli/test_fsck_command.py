"""``adb fsck``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run


def test_a_sound_home(run: Run, made_home: Path) -> None:
    """Nothing is found at any depth, and the exit is 0."""
    for words in ((), ("--deep",)):
        done = run("fsck", *words, "--json", "-d", made_home)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"ok": True, "findings": [], "repaired": []}
    assert run("fsck", "-d", made_home).stdout == "nothing is wrong\n"


def test_damage_is_named_repaired_and_ended_by_ingest(run: Run, home: Path, corpus: Path) -> None:
    """A lost weight file: exit 1 before and after repair, 0 once its documents are made again."""
    path = max(home.glob("weights/??/*.safetensors"), key=lambda path: path.stat().st_mtime)
    path.unlink()
    (home / "weights" / "staging" / "left").write_bytes(b"x")
    done = run("fsck", "-d", home)
    assert done.exit_code == 1
    assert f"error     lost_file: weight file {path.stem} is missing" in done.stdout
    assert "mend: " in done.stdout
    assert (home / "weights" / "staging" / "left").exists()
    done = run("fsck", "--repair", "--json", "-d", home)
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert {act["code"] for act in report["repaired"]} == {"lost_file", "stale_staging"}
    assert {(f["code"], f["repairable"]) for f in report["findings"]} == {("damaged", False)}
    assert all(f["namespace"] == "default" and f["document"] for f in report["findings"])
    assert "repaired" not in run("fsck", "--repair", "-d", home).stdout
    again = run("ingest", corpus, "-d", home)
    assert again.exit_code == 0, again.output
    done = run("fsck", "--deep", "--json", "-d", home)
    assert done.exit_code == 0, done.output
    found = {(f["code"], f["severity"]) for f in json.loads(done.stdout)["findings"]}
    assert found == {("damaged", "warning")}
    listed = json.loads(run("stats", "--json", "-d", home).stdout)
    assert listed["documents"] == len(TEXTS)


def test_a_catalog_that_cannot_be_read(run: Run, home: Path) -> None:
    """It is an error with its code and what mends it, not a crash; repair does not touch it."""
    for catalog in home.glob("meta.db*"):
        catalog.unlink()
    (home / "meta.db").write_bytes(b"noise" * 4096)
    for words in ((), ("--repair",)):
        done = run("fsck", *words, "--json", "-d", home)
        assert done.exit_code == 1
        (found,) = json.loads(done.stdout)["findings"]
        assert (found["code"], found["repairable"]) == ("catalog", False)
        assert "backup" in found["mend"]
    assert (home / "meta.db").read_bytes() == b"noise" * 4096
