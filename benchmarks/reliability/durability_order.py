"""T5: each acknowledgement comes after everything it promises was synced, by the system calls.

An ingest is traced (with some replaces and deletes in between), and for each acknowledgement, in
the order of the calls:

    the weight file's descriptor is fsynced after its last write and before its rename;
    the folder that it is renamed into, and the one above, are fsynced after the rename and before
    the catalog's log (meta.db-wal) is next synced;
    the catalog's log is fdatasynced after its last write and before the acknowledgement is written.

    python -m benchmarks.reliability.durability_order [--rounds 50] [--seed S] [--plant BUG]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.reliability import ledger
from benchmarks.reliability.campaign import Campaign, make_home, parser
from benchmarks.reliability.strace import run_traced
from benchmarks.reliability.trace import OPTIONS, Call, calls
from benchmarks.reliability.workload import Plan

TRACED = "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2"


class Order:
    """Follows the calls of one worker and notes what came too early.

    Attributes:
        wrong: violations in words.
        acknowledged: operations acknowledged, of those that change documents.
    """

    def __init__(self, home: Path) -> None:
        self._weights, self._log = home / "weights", home / "meta.db-wal"
        self.wrong: list[str] = []
        self.acknowledged = self.files = 0
        self._unsynced: set[str] = set()  # files written and not synced since
        self._names: dict[str, set[str]] = {}  # renamed file: folders not synced since
        self._synced_log = self._renamed = False
        self._operation, self._changes = "", 0

    def see(self, call: Call) -> None:
        """Take the next call, in the order of their ends."""
        if call.failed:
            return
        if call.name == "writev" and b'"event"' in call.strings[0]:
            self._line(json.loads(call.strings[0]))
        elif call.name in ("write", "writev", "pwrite64"):
            self._unsynced.add(call.behind)
        elif call.name in ("fsync", "fdatasync"):
            self._sync(call.behind)
        else:
            self._rename(*(text.decode() for text in call.strings[:2]))

    def _line(self, line: dict[str, object]) -> None:
        if line["event"] == "begin":
            self._operation, self._changes = str(line["op"]), len(line["changes"])  # type: ignore[arg-type]
            self._synced_log = self._renamed = False
        elif line["event"] == "done" and self._changes:
            self.acknowledged += 1
            what = f"acknowledgement {self.acknowledged} ({self._operation})"
            if not self._synced_log or str(self._log) in self._unsynced:
                self.wrong.append(f"{what}: the catalog's log is not synced")
            if self._operation in ("ingest", "replace") and not self._renamed:
                self.wrong.append(f"{what}: no weight file was made")
            self._check_names(what)

    def _sync(self, name: str) -> None:
        self._unsynced.discard(name)
        for folders in self._names.values():
            folders.discard(name)
        if name == str(self._log):
            self._synced_log = True
            self._check_names("a sync of the catalog's log")

    def _rename(self, source: str, target: str) -> None:
        if not target.startswith(f"{self._weights}/"):
            return
        self.files += 1
        self._renamed = True
        if source in self._unsynced:
            self.wrong.append(f"{Path(target).name} is renamed before it is synced")
        self._names[target] = {str(Path(target).parent), str(self._weights)}

    def _check_names(self, what: str) -> None:
        for name, folders in self._names.items():
            for folder in folders:
                self.wrong.append(f"{what} comes before a sync of {folder}, which has {name}")
        self._names.clear()


def ordered(trace: Iterable[Call], home: Path) -> Order:
    """What the calls of ``trace`` tell."""
    order = Order(home)
    for call in trace:
        order.see(call)
    return order


def main() -> int:
    arguments = parser(__doc__, rounds=50).parse_args()
    campaign = Campaign("durability_order", arguments)
    script = []
    for i in range(campaign.rounds):
        script += ["ingest"] + ["replace", "apply"] * (i % 5 == 0) + ["delete"] * (i % 10 == 3)
    with campaign.folder() as folder:
        home, logs = make_home(folder)
        plan = Plan(
            home,
            logs[0],
            campaign.seed,
            script=tuple(script),
            documents=(1, 1),
            applies=0.2,
            waits="before",
            plant=campaign.plant,
        )
        status = run_traced(plan, folder / "trace", [*OPTIONS, "-e", f"trace={TRACED}"], 600)
        order = ordered(calls(folder / "trace"), home)
        wrong = order.wrong + ([f"the worker ended with {status}"] if status else [])
        said = sum(ledger.read(logs[0]).operations[name] for name in ("ingest", "replace"))
        if order.files < said:
            wrong.append(f"{said} operations made weight files, the trace shows {order.files}")
        campaign.record(home, "order", wrong)
        campaign.counts["acknowledgements_checked"] = order.acknowledged
        campaign.counts["weight_files"] = order.files
        campaign.judge(home, logs, "afterwards")
        campaign.counted(logs)
    return campaign.end()


if __name__ == "__main__":
    sys.exit(main())
