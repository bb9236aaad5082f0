"""The programs of ``benchmarks/reliability`` in small: kills, and bugs that must be found."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.reliability import kill_points, ledger, random_kills
from benchmarks.reliability.campaign import Campaign, make_home, run
from benchmarks.reliability.contents import Content
from benchmarks.reliability.disk import Disk
from benchmarks.reliability.judge import judge
from benchmarks.reliability.ledger import Ledger, Model
from benchmarks.reliability.trace import Call
from benchmarks.reliability.workload import Plan


@pytest.fixture
def campaign(tmp_path: Path, request: pytest.FixtureRequest) -> Campaign:
    """A campaign whose homes lie in ``tmp_path``, with the bug that a test asks for."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    plant = getattr(request, "param", "")
    return Campaign("test", Namespace(seed=seed, rounds=1, plant=plant, folder=str(tmp_path)))


def _kill(campaign: Campaign, operation: str, *steps: str) -> None:
    """Kill at the first passing of these steps, each in a copy of one home."""
    with campaign.folder() as base:
        home, logs = make_home(base)
        plan = Plan(home, logs[0], campaign.seed, applies=1.0)
        assert run(Plan(home, logs[0], campaign.seed, script=("ingest", "apply", "replace"))) == 0
        plan = Plan(home, logs[0], campaign.seed, script=(operation,) * 2, applies=1.0)
        for step in steps:
            kill_points.kill(campaign, base, plan, step, 1)
    assert campaign.counts["kills"] == len(steps)


@pytest.mark.parametrize(
    ("operation", "step"),
    [("replace", "renamed"), ("delete", "committed"), ("rollback", "index_put")],
)
def test_a_kill_in_each_operation_loses_nothing(
    campaign: Campaign, operation: str, step: str
) -> None:
    """Killed in the middle of a replace, delete or rollback: all acknowledged, or all and that."""
    _kill(campaign, operation, step)
    assert campaign.violations == []


def test_two_writers_killed_at_random_lose_nothing(campaign: Campaign) -> None:
    """Two processes on one home, killed at random moments, twice, then judged by their logs."""
    chance = random.Random(campaign.seed)
    random_kills.one_home(campaign, chance, 2, delays_ms=(50, 400), zero=True)
    assert campaign.violations == []
    assert campaign.counts["acknowledged_documents"] > 0


@pytest.mark.parametrize(
    ("campaign", "step", "word"),
    [
        ("commit_before_file", "committed", "lost_file"),
        ("outbox_before_index", "outbox_cleared", "index_missing"),
        ("acknowledged_too_early", "before_commit", "is lost"),
    ],
    indirect=["campaign"],
)
def test_the_judge_finds_a_planted_bug(campaign: Campaign, step: str, word: str) -> None:
    """With a step of the commit order in the wrong place, a kill there is seen to lose data."""
    _kill(campaign, "ingest", step)
    assert any(word in violation["wrong"] for violation in campaign.violations)


def test_the_judge_finds_what_the_log_does_not_know(tmp_path: Path) -> None:
    """A document, a version or a delete that only one side knows of is a violation."""
    home, logs = make_home(tmp_path)
    assert (
        run(Plan(home, logs[0], 1, script=("ingest", "replace", "delete"), documents=(1, 1))) == 0
    )
    assert judge(home, logs) == []
    key = ("default", "doc-anowhere")
    content = Content(*key, "anowhere", 1, 3)
    book = Ledger(logs[0])
    book.begin("ingest", [ledger.put(content)])
    book.done()
    book.close()
    assert judge(home, logs) == [f"worker a: {key} is lost"]


def test_a_log_replays_to_what_must_be_found(tmp_path: Path) -> None:
    """Versions count on over deletes and rollbacks; a torn last line acknowledges nothing."""
    first, second = (Content("n", "d", serial, 1, 2) for serial in ("s1", "s2"))
    book = Ledger(tmp_path / "a.jsonl")
    for changes in (
        [ledger.put(first)],
        [ledger.put(second)],
        [ledger.delete(("n", "d"))],
        [ledger.revive(("n", "d"), 1)],
    ):
        book.begin("x", changes)
        book.done()
    assert ledger.read(book.path).model.active == {("n", "d"): (3, first)}
    book.begin("x", [ledger.delete(("n", "d"))])
    book.close()
    with book.path.open("a") as file:
        file.write('{"event":"done"}')
    account = ledger.read(book.path)
    assert (account.acknowledged, account.pending) == (4, [ledger.delete(("n", "d"))])
    assert account.model.after(account.pending or []).active == {}
    assert Model().active == {}


def _call(name: str, arguments: str, result: str = "0") -> Call:
    return Call(1, name, arguments, result, 0, 0)


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_a_replayed_disk_keeps_only_what_was_synced(tmp_path: Path) -> None:
    """A written file is empty until synced, and nameless until its folder is; then it stays."""
    chance = random.Random(0)
    disk, file = Disk.of(tmp_path), tmp_path / "file"
    behind = f"3<{_hex(str(file))}>"
    disk.play(_call("openat", f'AT_FDCWD, "{_hex(str(file))}", O_WRONLY|O_CREAT, 0644', behind))
    disk.play(_call("write", f'{behind}, "{_hex("one")}", 3', "3"))
    assert disk.image("missing", chance) == {}
    assert disk.image("empty", chance) == {file: b""}
    disk.play(_call("fsync", behind))
    assert disk.image("missing", chance) == {}
    disk.play(_call("fsync", f"4<{_hex(str(tmp_path))}>"))
    disk.play(_call("write", f'{behind}, "{_hex("two")}", 3', "3"))
    assert disk.now() == {file: b"onetwo"}
    assert disk.image("missing", chance) == {file: b"one"}
    assert disk.image("empty", chance) == {file: b"one\0\0\0"}
    moved = tmp_path / "moved"
    disk.play(_call("rename", f'"{_hex(str(file))}", "{_hex(str(moved))}"'))
    assert disk.image("missing", chance) == {file: b"one"}
    assert disk.image("old", chance) == {file: b"one", moved: b"one"}
