"""``adb forget`` and ``adb gc``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import TEXTS, Run


def test_forget_prints_a_receipt_and_leaves_no_byte(run: Run, home: Path) -> None:
    """The text is in no file afterwards; other documents are found as before."""
    before = run("search", "salt law", "-k", "1", "--json", "-d", home).stdout
    assert run("forget", "kettle.txt", "--json", "-d", home).exit_code == 1  # needs --yes
    dry = json.loads(run("forget", "kettle.txt", "--dry-run", "--json", "-d", home).stdout)
    assert (dry["documents"], dry["dry_run"]) == (1, True)
    done = run("forget", "kettle.txt", "--yes", "--json", "-d", home)
    receipt = json.loads(done.stdout)
    assert (done.exit_code, receipt["documents"], receipt["residue"]) == (0, 1, [])
    assert "kettle" not in json.dumps(receipt)
    text = TEXTS["kettle.txt"].encode()
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if text in path.read_bytes()]
    assert run("search", "salt law", "-k", "1", "--json", "-d", home).stdout == before
    assert run("history", "kettle.txt", "-d", home).exit_code == 1


def test_forget_for_people(run: Run, home: Path) -> None:
    """The receipt in words says what was searched and what is out of reach."""
    done = run("forget", "--where", "year < 1900", "--yes", "-d", home)
    assert done.exit_code == 0
    assert "forgot 1 document (1 version, 1 passage) from default" in done.stdout
    assert "nothing left" in done.stdout
    assert "backups" in done.stdout
    assert run("forget", "-d", home).exit_code == 2


def test_gc_follows_the_retention_of_the_home(run: Run, home: Path, tmp_path: Path) -> None:
    """By default nothing goes; with a retention of no days the deleted document does."""
    run("delete", "kettle.txt", "--yes", "-d", home)
    assert json.loads(run("gc", "--json", "-d", home).stdout)["versions"] == 0
    config = home / "adapterdb.toml"
    config.write_text(config.read_text().replace("deleted_days = 30.0", "deleted_days = 0"))
    assert "would remove 1 versions" in run("gc", "--dry-run", "-d", home).stdout
    done = json.loads(run("gc", "--grace", "0", "--json", "-d", home).stdout)
    assert (done["versions"], done["dry_run"]) == (1, False)
    assert run("rollback", "kettle.txt@1", "-d", home).exit_code == 1
    assert json.loads(run("gc", "--grace", "-1", "--json", "-d", home).stderr)["error"]["code"] == (
        "invalid_input"
    )
