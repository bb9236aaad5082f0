"""T2: two writers on one home, kill -9 at a random moment, again and again.

Each round starts two workers with random sizes of commits, documents and passages, kills both
20 to 1,500 ms after they are ready (at moments of their own), and judges. A home goes through ten
rounds, so that recoveries are themselves killed and recovered from; workers continue their logs.
With ``--zero`` the newest files of the index are emptied after some kills, as by a power cut. More
rounds are added until there are enough acknowledgements.

    python -m benchmarks.reliability.random_kills [--rounds 200] [--seed S] [--zero] [--plant BUG]
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from benchmarks.reliability import ledger
from benchmarks.reliability.campaign import Campaign, finish, make_home, parser, start
from benchmarks.reliability.judge import Bounds
from benchmarks.reliability.workload import Plan

ROUNDS_OF_A_HOME = 10
DELAYS_MS = (20, 1500)
NEWEST = 3


def random_plan(chance: random.Random, home: Path, log: Path, plant: str) -> Plan:
    """A worker with sizes of its own."""
    return Plan(
        home,
        log,
        chance.randrange(2**32),
        worker=log.stem,
        namespaces=chance.choice([("default",), ("default", "two/../x", "Drei")]),
        documents=(1, chance.choice([1, 3, 12])),
        passages=(1, chance.choice([1, 4, 10])),
        words=(1, chance.choice([5, 100, 1000])),
        applies=chance.choice([0.0, 0.3, 1.0]),
        plant=plant,
    )


def zero_newest(index: Path) -> int:
    """Empty the newest files of the index, as power may; how many."""
    files = sorted((f for f in index.rglob("*") if f.is_file()), key=lambda f: f.stat().st_mtime_ns)
    for file in files[-NEWEST:]:
        file.write_bytes(b"")
    return len(files[-NEWEST:])


def one_round(
    campaign: Campaign,
    chance: random.Random,
    home: Path,
    logs: list[Path],
    *,
    delays_ms: tuple[int, int],
    zero: bool,
) -> bool:
    """Start, kill, judge; whether all is well."""
    children = [start(random_plan(chance, home, log, campaign.plant)) for log in logs]
    moments = sorted((chance.uniform(*delays_ms) / 1000, i) for i in range(len(children)))
    began = time.monotonic()
    for moment, i in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        children[i].kill()
    wrong = []
    for log, child in zip(logs, children, strict=True):
        if (status := finish(child)) != -9:
            said = ledger.read(log)
            what = f"{status} in {said.operation or 'no operation'}, {said.ended}"
            wrong.append(f"worker {log.stem} ended by itself: {what}")
    what = f"round {campaign.counts['rounds_done']}"
    damaged = zero and chance.random() < 0.5 and zero_newest(home / "lance") > 0
    campaign.counts["index_damaged"] += damaged
    campaign.counts["pending"] += sum(ledger.read(log).pending is not None for log in logs)
    campaign.counts["rounds_done"] += 1
    fine = campaign.record(home, what, wrong)
    return campaign.judge(home, logs, what, Bounds(index_damaged=damaged)) and fine


def one_home(
    campaign: Campaign,
    chance: random.Random,
    rounds: int,
    *,
    delays_ms: tuple[int, int] = DELAYS_MS,
    zero: bool = False,
) -> None:
    """Some rounds on one home; a violation ends it, for what follows it would tell nothing."""
    with campaign.folder() as folder:
        home, logs = make_home(folder, logs=("a", "b"))
        for _ in range(rounds):
            if not one_round(campaign, chance, home, logs, delays_ms=delays_ms, zero=zero):
                break
        campaign.counted(logs)


def main() -> int:
    options = parser(__doc__, rounds=200)
    options.add_argument("--zero", action="store_true", help="also destroy parts of the index")
    options.add_argument("--least", type=int, default=5000, help="acknowledgements to reach")
    arguments = options.parse_args()
    campaign = Campaign("random_kills", arguments)
    chance = random.Random(campaign.seed)
    while not campaign.violations and (
        campaign.counts["rounds_done"] < campaign.rounds
        or campaign.counts["acknowledged_documents"] < arguments.least
    ):
        left = max(1, campaign.rounds - campaign.counts["rounds_done"])
        one_home(campaign, chance, min(ROUNDS_OF_A_HOME, left), zero=arguments.zero)
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
