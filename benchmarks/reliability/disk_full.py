"""T7: a disk that fills up while documents are taken in, deleted, and the index is built anew.

The home lies on a tmpfs of a size of its own in each round, most of it taken by a filler file, so
that the work runs into the end at another place every time. Then, in turn:

    ingest   until the disk is full: the worker must end with an error of ours, code ``disk_full``
    fill     the very last byte is taken
    read     open for reading only: everything acknowledged is there and found
    delete   succeeds, by the reserve the store keeps aside
    rebuild  of the index: done, or an error of ours; everything is still found
    grow     the tmpfs gets larger: all kinds of work succeed again

Needs root, to mount.

    python -m benchmarks.reliability.disk_full [--rounds 20] [--seed S]
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.reliability import ledger
from benchmarks.reliability.campaign import Campaign, make_home, parser, run
from benchmarks.reliability.judge import Bounds
from benchmarks.reliability.workload import FAILED, Plan

MIB = 2**20
SMALLEST_MIB, STEP_MIB, GROWTH_MIB = 44, 2, 64  # the reserve wants 32 MiB free before it is made
CODES = {"ingest": {"disk_full"}, "delete": set(), "rebuild": {"disk_full", "index"}}
LEFT_KIB = (100, 3000)  # what the filler leaves at first


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A tmpfs mounted below ``folder``."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path, leave_bytes: int) -> None:
    """Take all but ``leave_bytes`` of what is free, by making a file larger."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with (place / "filler").open("ab") as file:
        if free > leave_bytes:
            os.posix_fallocate(file.fileno(), file.tell(), free - leave_bytes)


def one_round(campaign: Campaign, chance: random.Random, folder: Path, size_mib: int) -> None:
    """Everything above on a disk of ``size_mib``."""
    with small_disk(folder, size_mib) as place:
        home, _ = make_home(place)
        log = folder / "a.jsonl"
        plan = Plan(home, log, chance.randrange(2**32), words=(50, 400), passages=(1, 10))
        if run(replace(plan, script=("ingest", "replace", "apply") * 3)):
            raise RuntimeError(f"the setting can't be made: {ledger.read(log).ended}")
        kept = (home / "reserve.bin").stat().st_blocks * 512
        fill(place, chance.randint(*LEFT_KIB) * 1024)
        steps = (
            ("ingest", ("ingest", "replace") * 1000, {FAILED}),
            ("delete", ("delete", "delete"), {0}),
            ("rebuild", ("rebuild",), {0, FAILED}),
        )
        fine = True
        for name, script, expected in steps:
            what = f"{size_mib} MiB: {name}"
            status = run(replace(plan, script=script, applies=0.3))
            ended = ledger.read(log).ended or {}
            campaign.counts[f"{name} {'done' if status == 0 else 'refused'}"] += 1
            if status not in expected or (status == FAILED and ended["code"] not in CODES[name]):
                fine = campaign.record(home, what, [f"status {status}: {ended}; reserve {kept}"])
            fill(place, 0)
            fine = campaign.judge(home, [log], f"{what}, full", Bounds(read_only=True)) and fine
        size = f"remount,size={size_mib + GROWTH_MIB}m"
        subprocess.run(["mount", "-o", size, place], check=True)
        again = ("ingest", "replace", "apply", "delete", "rollback", "rebuild", "apply")
        if status := run(replace(plan, script=again)):
            what = f"{size_mib} MiB: grown"
            campaign.record(home, what, [f"status {status}: {ledger.read(log).ended}"])
        campaign.judge(home, [log], f"{size_mib} MiB: grown")
        campaign.counts["unfinished_files"] += len(list((home / "weights" / "staging").glob("*")))
        campaign.counted([log])
        if campaign.violations:  # the disk goes away with the mount
            subprocess.run(["cp", "-r", home, folder / "home"], check=True)


def main() -> int:
    arguments = parser(__doc__, rounds=20).parse_args()
    campaign = Campaign("disk_full", arguments)
    chance = random.Random(campaign.seed)
    for number in range(campaign.rounds):
        with campaign.folder() as folder:
            one_round(campaign, chance, folder, SMALLEST_MIB + STEP_MIB * number)
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
