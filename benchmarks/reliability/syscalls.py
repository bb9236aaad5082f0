"""T3 and T4: kill -9, or an error, at every Nth system call of an ingest, a replace and a delete.

strace is attached to a worker that waits with the home open, and then injects at the Nth call of a
kind, counted in each thread (the store writes in one, Lance in several). A first run without
injection tells how many calls there are; rare kinds are hit at every call, frequent ones spread.
A run counts only if the injection is seen to have hit: the worker died of SIGKILL, or an injected
error stands in the trace at a call on the home (an error on a pipe or an event counter of a runtime
is no fault of a disk; such runs are done again elsewhere).

    kill   every change of a file or name, half of the runs
    error  EIO for fsync, fdatasync, pwrite64, read, pread64; ENOSPC for write, rename, renameat,
           linkat, openat, mkdir; EMFILE for openat. Every second one persists from the Nth call on

After an error the worker must have ended well (where only the index was concerned) or with an error
of ours; never with another, never hanging. Then everything acknowledged is there, and the same work
without a fault completes.

    python -m benchmarks.reliability.syscalls [--rounds 240] [--seed S] [--only kill|error]
"""

from __future__ import annotations

import random
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.reliability import ledger
from benchmarks.reliability.campaign import Campaign, copy_home, make_home, parser, run
from benchmarks.reliability.judge import Bounds
from benchmarks.reliability.strace import run_traced
from benchmarks.reliability.trace import OPTIONS, calls
from benchmarks.reliability.workload import FAILED, Plan

KILLS = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("fsync", "fdatasync", "ftruncate", "pwrite64", "mkdir"),
)
ERRORS = {
    "EIO": ("fsync", "fdatasync", "pwrite64", "read", "pread64"),
    "ENOSPC": ("write", "rename", "renameat", "linkat", "openat", "mkdir"),
    "EMFILE": ("openat",),
}
SETTING = ("ingest", "ingest", "replace", "apply", "delete", "ingest", "rebuild")
SCRIPT = ("ingest", "ingest", "apply", "ingest", "replace", "apply", "delete", "apply")
TRIES = 3  # runs allowed for each that counts
HANGS_S = 60.0


@dataclass(frozen=True)
class Fault:
    """What is injected: ``error`` (empty: SIGKILL) at the ``at``-th ``call`` of a thread."""

    call: str
    at: int
    error: str = ""
    persists: bool = False

    @property
    def option(self) -> str:
        """As strace wants it."""
        what = f"error={self.error}" if self.error else "signal=SIGKILL"
        return f"inject={self.call}:{what}:when={self.at}{'+' if self.persists else ''}"

    @property
    def kind(self) -> str:
        """For counting."""
        return f"{self.error or 'kill'} {self.call}"


def numbers(campaign: Campaign, base: Path, plan: Plan) -> dict[str, list[int]]:
    """For each system call, the numbers (in its thread) of those on the home."""
    found: dict[str, set[int]] = defaultdict(set)
    every = sorted({*KILLS, *(call for names in ERRORS.values() for call in names)})
    with campaign.folder() as folder:
        home, logs = copy_home(base, folder)
        trace = folder / "trace"
        traced = replace(plan, home=home, log=logs[0])
        if run_traced(traced, trace, [*OPTIONS, "-e", f"trace={','.join(every)}"]):
            raise RuntimeError(f"the work fails without a fault: {ledger.read(logs[0]).ended}")
        seen: dict[tuple[int, str], int] = defaultdict(int)
        for call in sorted(calls(trace), key=lambda call: call.begun):
            seen[call.thread, call.name] += 1
            if call.touches(home):
                found[call.name].add(seen[call.thread, call.name])
    return {name: sorted(some) for name, some in found.items()}


def faults(chance: random.Random, where: dict[str, list[int]], *, kill: bool) -> Iterator[Fault]:
    """Faults without end: kinds in turn, each at numbers in random order, again when used up."""
    kinds = [(call, "") for call in KILLS]
    if not kill:
        kinds = [(call, error) for error, names in ERRORS.items() for call in names]
    kinds = [kind for kind in kinds if where.get(kind[0])]
    left: dict[tuple[str, str], list[int]] = {kind: [] for kind in kinds}
    used = dict.fromkeys(kinds, 0)
    while True:
        for call, error in kinds:
            queue = left[call, error]
            if not queue:
                queue += chance.sample(where[call], len(where[call]))
            used[call, error] += 1
            persists = bool(error) and used[call, error] % 2 == 0
            yield Fault(call, queue.pop(), error, persists)


def inject(campaign: Campaign, base: Path, plan: Plan, fault: Fault) -> bool:
    """One run with a fault, and its judgement; whether the fault hit a call on the home."""
    with campaign.folder() as folder:
        home, logs = copy_home(base, folder)
        log, trace = logs[0], folder / "trace"
        options = [*OPTIONS, "-e", f"trace={fault.call}", "-e", fault.option]
        faulty = replace(plan, home=home, log=log, plant=campaign.plant)
        try:
            status: int | None = run_traced(faulty, trace, options, HANGS_S)
        except RuntimeError as error:
            status, said = None, str(error)
        hits = [call for call in calls(trace) if call.injected]
        if fault.error:
            if not hits or not all(call.touches(home) for call in hits):
                return False
        elif status != -signal.SIGKILL:
            return False
        what = f"{fault.option} at {[_where(c.behind or str(c.strings), home) for c in hits[:2]]}"
        ended = ledger.read(log).ended or {}
        if status is None:
            campaign.record(home, what, [f"hangs: {said}"])
            return True
        if fault.error and status not in (0, FAILED):
            line = ended.get("traceback", "no traceback").strip().splitlines()[-1]
            campaign.record(home, what, [f"ended with status {status}: {line}"])
        campaign.counts[fault.kind] += 1
        campaign.counts["ended_with_our_error"] += status == FAILED
        campaign.counts["ended_well"] += status == 0
        if not campaign.judge(home, logs, what, Bounds(goes_on=False), seed=fault.at):
            return True
        again = run(replace(plan, home=home, log=log, waits=""))
        if again:
            campaign.record(home, what, [f"does not go on: {again}, {ledger.read(log).ended}"])
        campaign.judge(home, logs, f"{what}, then without a fault", seed=fault.at)
        campaign.counted(logs)
        return True


def _where(name: str, home: Path) -> str:
    return name.replace(str(home), "HOME")


def main() -> int:
    options = parser(__doc__, rounds=240)
    options.add_argument("--only", choices=["", "kill", "error"], default="")
    arguments = options.parse_args()
    campaign = Campaign("syscalls", arguments)
    chance = random.Random(campaign.seed)
    with campaign.folder() as base:
        home, logs = make_home(base)
        plan = Plan(home, logs[0], campaign.seed, documents=(1, 2), applies=0.0)
        if run(replace(plan, script=SETTING)):
            raise RuntimeError(f"the setting can't be made: {ledger.read(logs[0]).ended}")
        plan = replace(plan, script=SCRIPT, documents=(1, 1), waits="after")
        where = numbers(campaign, base, plan)
        parts = [part for part in ("kill", "error") if arguments.only in ("", part)]
        for part in parts:
            wanted = campaign.rounds // len(parts)
            source = faults(chance, where, kill=part == "kill")
            for _ in range(wanted * TRIES):
                if campaign.counts[f"{part}s_hit"] == wanted:
                    break
                campaign.counts[f"{part}s_hit"] += inject(campaign, base, plan, next(source))
                campaign.counts["runs"] += 1
            if campaign.counts[f"{part}s_hit"] < wanted:
                done = f"only {campaign.counts[f'{part}s_hit']} of {wanted} {part}s hit"
                campaign.record(Path(), part, [done])
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
