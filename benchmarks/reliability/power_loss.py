"""T6: what a power cut leaves at many moments of a run, built from its system calls, and judged.

What is modelled. A worker ingests, replaces, deletes, applies and rebuilds under strace, which
records every call that changes a file or a name below the home, with all data. ``disk.Disk``
replays them and keeps, for every file, the bytes at its last fsync or fdatasync, and for every
folder, the names at its own last fsync. At a moment (right after an acknowledgement, or anywhere)
the image of the home is built in three ways, as the strictest file systems that POSIX allows might
leave it: everything unsynced *missing*; names there but unsynced bytes *empty*; *old* names and
bytes back; and in a fourth, each by chance. What was acknowledged before the moment must be in
every image; the index may have to be rebuilt, which the store does by itself.

Not modelled: a sector torn in the middle of a synced write, a disk that lies about syncing, the
home folder's own name in its parent, and the shared memory of SQLite (``meta.db-shm``), which is
left out of images: SQLite makes it anew. The replay is checked: replayed to the end it must equal
the home on the real disk, byte for byte.

    python -m benchmarks.reliability.power_loss [--rounds 20] [--seed S] [--plant unsynced_file]

A round is one moment, so 80 images with the default.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from benchmarks.reliability.campaign import Campaign, make_home, parser, run
from benchmarks.reliability.disk import LOSSES, TRACED, Disk, lay_out
from benchmarks.reliability.judge import Bounds
from benchmarks.reliability.strace import run_traced
from benchmarks.reliability.trace import OPTIONS, Call, calls
from benchmarks.reliability.workload import Plan

SETTING = ("ingest", "ingest", "apply", "replace")
SCRIPT = ("ingest", "replace", "apply", "delete", "ingest", "rollback", "apply", "rebuild") * 4


def is_line(call: Call, log: Path) -> bool:
    """Whether the call writes a line of the tester's log."""
    return call.name == "writev" and call.behind == str(log)


def moments(chance: random.Random, trace: list[Call], log: Path, count: int) -> set[int]:
    """Numbers of calls after which power fails: half of them acknowledgements."""
    told = [i for i, c in enumerate(trace) if is_line(c, log) and b'"done"' in c.strings[0]]
    half = chance.sample(told, min(len(told), count // 2))
    return {*half, *chance.sample(range(len(trace)), count - len(half))}


def judge_images(
    campaign: Campaign, folder: Path, disk: Disk, told: bytes, chance: random.Random, what: str
) -> None:
    """Build every image of this moment and judge it."""
    for loss in LOSSES:
        with campaign.folder() as place:
            image = disk.image(loss, chance)
            image.pop(disk.root / "meta.db-shm", None)
            lay_out(image, disk.root, place / "home")
            log = place / "a.jsonl"
            log.write_bytes(told)
            campaign.judge(place / "home", [log], f"{what}, {loss}", Bounds(index_damaged=True))
            campaign.counts["images"] += 1
            campaign.counts[f"images_{loss}"] += 1


def differences(disk: Disk) -> list[str]:
    """Where the replay and the real disk differ."""
    replayed, real = disk.now(), Disk.of(disk.root).now()
    return [
        f"the replay is wrong about {path}"
        for path in sorted(replayed.keys() | real.keys())
        if path.name != "meta.db-shm" and replayed.get(path, b"-") != real.get(path, b"-")
    ]


def main() -> int:
    arguments = parser(__doc__, rounds=20).parse_args()
    campaign = Campaign("power_loss", arguments)
    chance = random.Random(campaign.seed)
    with campaign.folder() as folder:
        home, logs = make_home(folder)
        plan = Plan(home, logs[0], campaign.seed, script=SETTING, applies=0.2)
        if run(plan):
            raise RuntimeError("the setting can't be made")
        disk, told = Disk.of(home), logs[0].read_bytes()
        plan = Plan(
            home,
            logs[0],
            campaign.seed + 1,
            script=SCRIPT,
            applies=0.2,
            waits="before",
            plant=campaign.plant,
        )
        options = [*OPTIONS, "-e", f"trace={TRACED}"]
        status = run_traced(plan, folder / "trace", options, 600)
        if status:
            raise RuntimeError(f"the worker ended with {status}")
        trace = list(calls(folder / "trace"))
        cuts = moments(chance, trace, logs[0], campaign.rounds)
        for i, call in enumerate(trace):
            disk.play(call)
            if is_line(call, logs[0]):
                told += b"".join(call.strings)
            if i in cuts:
                judge_images(
                    campaign, folder, disk, told, chance, f"after call {i} of {len(trace)}"
                )
        campaign.record(home, "replay", differences(disk))
        campaign.judge(home, logs, "afterwards")
        campaign.counted(logs)
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
