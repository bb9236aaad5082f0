"""T1: kill -9 at every named step of the store in every operation, at its 1st, 4th and 9th time.

For each operation a first run, without a kill, tells which steps it passes and how often, so that a
new operation or step needs nothing here. Then every (operation, step, occurrence) is killed in a
copy of the same home, proven hit by the exit status and by the last line of the log, and judged.
A round is all that once, in another configuration: documents in a commit, when the outbox is
applied. It fails too if no operation passes some step, or if fewer than ``--least`` were killed.

    python -m benchmarks.reliability.kill_points [--rounds 3] [--seed S] [--plant BUG]
"""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from adapterdb.store import Store
from adapterdb.store import store as commits
from adapterdb.store.upkeep import forget, gc
from benchmarks.reliability import ledger
from benchmarks.reliability.campaign import Campaign, copy_home, make_home, parser, run
from benchmarks.reliability.workload import OPERATIONS, Plan, Turn

STEPS = {*commits.STEPS, *gc.STEPS, *forget.STEPS}
OCCURRENCES = (1, 4, 9)
TIMES = 9  # an operation is repeated so often
SETTING = ("ingest", "ingest", "replace", "apply", "delete", "ingest", "replace")


def kill(campaign: Campaign, base: Path, plan: Plan, step: str, occurrence: int) -> None:
    """One kill in a copy of the home below ``base``, and its judgement."""
    what = f"{plan.script[0]}: {step} {occurrence}"
    with campaign.folder() as folder:
        home, logs = copy_home(base, folder)
        killed = replace(
            plan, home=home, log=logs[0], die_at=(step, occurrence), plant=campaign.plant
        )
        status = run(killed)
        ended = ledger.read(logs[0]).ended
        if status != -signal.SIGKILL or ended is None or ended.get("step") != step:
            campaign.record(home, what, [f"not hit: exit status {status}, {ended}"])
            return
        campaign.counts["kills"] += 1
        campaign.judge(home, logs, what, seed=campaign.seed)
        campaign.counted(logs)


def points(passed: Counter[str]) -> Iterator[tuple[str, int]]:
    """The steps and occurrences to kill at."""
    for step, count in sorted(passed.items()):
        yield from ((step, occurrence) for occurrence in OCCURRENCES if occurrence <= count)


def rehearse(campaign: Campaign, base: Path, plan: Plan) -> Counter[str]:
    """How often each step is passed when nothing is killed."""
    passed: Counter[str] = Counter()
    with campaign.folder() as folder:
        home, logs = copy_home(base, folder)
        log = ledger.Ledger(logs[0])
        with Store.open(home, on_step=lambda step: passed.update([step])) as store:
            turn = Turn(replace(plan, home=home, log=logs[0]), store, log)
            for operation in plan.script:
                turn.run(operation)
        log.close()
    return passed


def one_round(
    campaign: Campaign, number: int, operations: tuple[str, ...], most: int | None = None
) -> set[str]:
    """Kill at every point of every operation; the steps that were passed."""
    chance = random.Random(f"{campaign.seed} {number}")
    documents = (1, 1) if number % 2 == 0 else (1, 4)
    applies = (1.0, 0.6, 0.3)[number % 3]
    seen: set[str] = set()
    with campaign.folder() as base:
        home, logs = make_home(base)
        plan = Plan(home, logs[0], chance.randrange(2**32), documents=documents, applies=applies)
        if run(replace(plan, script=SETTING)):
            raise RuntimeError(f"the setting can't be made: {ledger.read(logs[0]).ended}")
        for operation in operations:
            script = replace(plan, script=(operation,) * TIMES)
            passed = rehearse(campaign, base, script)
            seen |= passed.keys()
            for step, occurrence in list(points(passed))[:most]:
                kill(campaign, base, script, step, occurrence)
    return seen


def main() -> int:
    options = parser(__doc__, rounds=3)
    options.add_argument("--least", type=int, default=150, help="kills that must be done")
    arguments = options.parse_args()
    campaign = Campaign("kill_points", arguments)
    seen: set[str] = set()
    for number in range(campaign.rounds):
        seen |= one_round(campaign, number, tuple(OPERATIONS))
    if missed := STEPS - seen:
        campaign.record(Path(), "all", [f"no operation passes {sorted(missed)}"])
    if campaign.counts["kills"] < arguments.least:
        campaign.record(Path(), "all", [f"only {campaign.counts['kills']} kills"])
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
