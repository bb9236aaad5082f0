"""``adb augment``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_making import TEXTS, Run, rows

SERVER = Path(__file__).parents[1] / "ingest" / "augment" / "chat_server.py"


@pytest.fixture
def url() -> Iterator[str]:
    """A chat server in a process of its own."""
    with subprocess.Popen([sys.executable, SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.terminate()


def test_write_report_and_ingest(
    run: Run, corpus: Path, home: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written without a home, repeated from the journal, and taken in with their tags."""
    monkeypatch.setenv("MY_KEY", "secret-1234")
    out = tmp_path / "rows.jsonl"
    words = ["augment", corpus, "--to", out, "--write", "facts", "--write", "tags", "--json"]
    endpoint = ["--generator", url, "--model", "good", "--key-variable", "MY_KEY"]
    done = run(*words, *endpoint, "--qa-per-fact", 4, "--roles", 2, "--held-out", 1)
    assert done.exit_code == 0, done.output
    *events, summary = rows(done.stdout)
    assert [(e["event"], e["id"]) for e in events] == [("written", name) for name in sorted(TEXTS)]
    assert (summary["written"], summary["facts"], summary["pairs"]) == (3, 3, 12)
    assert (summary["held_out"], summary["tagged"], summary["uncovered"]) == (3, 3, [])
    journal = tmp_path / "rows.jsonl.journal.jsonl"
    assert "secret" not in done.output + out.read_text() + journal.read_text()
    again = tmp_path / "again.jsonl"
    repeat = ["augment", corpus, "--to", again, "--write", "facts", "--write", "tags"]
    done = run(*repeat, "--generator", journal, "--qa-per-fact", 4, "--roles", 2, "--held-out", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("written 3   kept 0   failed 0")
    assert again.read_bytes() == out.read_bytes()
    done = run("ingest", out, "-d", home, "--json")
    assert rows(done.stdout)[-1]["rejected"] == 0, done.output
    listed = json.loads(run("list", "--where", "tag = 'tag 4'", "--json", "-d", home).stdout)
    assert len(listed) == 3


def test_failed_documents_make_the_exit_1(run: Run, tmp_path: Path, url: str) -> None:
    """They are listed with their reason; the rest is written."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.txt").write_text("")
    (tmp_path / "in" / "hay.txt").write_text("Hay is dry in June.")
    words = ["augment", tmp_path / "in", "--to", tmp_path / "r.jsonl", "--model", "good"]
    done = run(*words, "--generator", url)
    assert done.exit_code == 1
    assert done.stdout.startswith("written 1   kept 0   failed 1")
    assert "empty.txt" in done.stdout


def test_mistakes_have_codes(run: Run, corpus: Path, tmp_path: Path, url: str) -> None:
    """Before anything is written."""
    out = tmp_path / "r.jsonl"
    for words, code in (
        (["nowhere", "--to", out], "not_found"),
        ([corpus, "--to", out, "--generator", url], "invalid_input"),  # no --model
        ([corpus, "--to", out, "--generator", "poet"], "invalid_input"),
        ([corpus, "--to", out, "--qa-per-fact", 0], "invalid_input"),
        ([corpus, "--to", out, "--generator", url, "--model", "shut"], "endpoint_refused"),
        ([corpus / "kettle.txt", "--to", corpus / "kettle.txt"], "invalid_input"),
        ([corpus / "kettle.txt", "--from", "prag", "--to", out], "invalid_input"),
    ):
        done = run("augment", *words, "--json")
        assert done.exit_code == 1, words
        assert json.loads(done.stderr)["error"]["code"] == code, done.stderr
    assert not out.exists()
    assert run("augment", corpus, "--to", out, "--write", "poems").exit_code == 2


def test_converting(run: Run, tmp_path: Path) -> None:
    """--from and --as turn rows of one system into those of another."""
    source, out = tmp_path / "k.jsonl", tmp_path / "rows.jsonl"
    source.write_text(
        '{"id": 1, "conversations": ["Who?", "Ann"], "fact": "Ann sang.", "file_name": "a"}\n'
    )
    done = run("augment", source, "--from", "knowledge-update", "--to", out, "--json")
    assert json.loads(done.stdout) == {"format": "rows", "records": 1}
    assert rows(out.read_text())[0]["text"] == "Ann sang."
    done = run("augment", out, "--as", "meteora", "--to", tmp_path / "m.jsonl")
    assert done.stdout == f"1 records as meteora in {tmp_path / 'm.jsonl'}\n"
    assert rows((tmp_path / "m.jsonl").read_text())[0]["prompt"] == "Who?"
