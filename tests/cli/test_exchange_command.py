"""``adb export`` and ``adb import``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_making import Run


def test_export_then_import(run: Run, home: Path, tmp_path: Path) -> None:
    """A delta written as a PEFT folder can be stored again under another name and text."""
    out = tmp_path / "out"
    done = run("export", "kettle.txt", "harbour.md", out, "--json", "-d", home)
    assert done.exit_code == 0, done.output
    first, second = map(Path, json.loads(done.stdout))
    assert (first / "adapter_config.json").is_file()
    assert (first / "adapter_model.safetensors").is_file()
    about = tmp_path / "about.txt"
    about.write_text("Windmills grind oats on the western shore.")
    words = ("import", first, "--text", about, "--name", "mills", "--tag", "year=1850")
    stored = json.loads(run(*words, "--json", "-d", home).stdout)
    assert (stored["kind"], stored["document"]) == ("imported", "mills")
    hits = json.loads(run("search", "windmills", "-k", "1", "--json", "-d", home).stdout)
    assert hits[0]["delta_id"] == stored["id"]
    derived = ("import", first, "--text", about, "--name", "derived", "--made-from")
    assert run(*derived, "no.txt", "-d", home).exit_code == 1
    assert run(*derived, "harbour.md", "-d", home).exit_code == 0
    assert run("delete", "harbour.md", "--yes", "-d", home).exit_code == 0
    assert run("show", "derived", "-d", home).exit_code == 1
    piped = run("import", second, "--text", "-", "-d", home, stdin="Ships call at noon.")
    assert piped.stdout.endswith(f"as {second.name}@1\n")


def test_what_can_not_be_exchanged(run: Run, home: Path, tmp_path: Path) -> None:
    """Missing folders and texts, and texts that are none, have codes."""
    text, binary = tmp_path / "t.txt", tmp_path / "b.bin"
    text.write_text("Hay.")
    binary.write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    for words, code in (
        (["export", "no.txt", str(tmp_path / "out")], "not_found"),
        (["import", str(tmp_path / "no"), "--text", str(text)], "not_found"),
        (["import", str(tmp_path / "empty"), "--text", str(tmp_path / "no")], "unreadable"),
        (["import", str(tmp_path / "empty"), "--text", str(binary)], "invalid_input"),
    ):
        done = run(*words, "--json", "-d", home)
        assert done.exit_code == 1, words
        assert json.loads(done.stderr)["error"]["code"] == code, words
