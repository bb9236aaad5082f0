"""What all these programs share: worker processes, scratch homes, arguments and the summary.

Workers come from a fork server that has imported the slow libraries but used none of them, so that
one more process costs tens of milliseconds. Lance must not have run before the fork.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from adapterdb.store import Store
from benchmarks.reliability import ledger
from benchmarks.reliability.contents import INFO
from benchmarks.reliability.judge import STRICT, Bounds, judge
from benchmarks.reliability.plants import PLANTS
from benchmarks.reliability.workload import Plan, work

FORKS = multiprocessing.get_context("forkserver")
# all of lancedb but itself: importing it starts a thread, which a fork would lose
FORKS.set_forkserver_preload(
    ["pyarrow.dataset", "lance_namespace", "pydantic", "benchmarks.reliability.workload"]
)
START_S = 60.0


def start(plan: Plan) -> ForkServerProcess:
    """A worker that carries out ``plan``, past its slow start; it may have ended already."""
    plan.ready.unlink(missing_ok=True)
    plan.go.unlink(missing_ok=True)
    child = FORKS.Process(target=work, args=(plan,), daemon=True)
    child.start()
    deadline = time.monotonic() + START_S
    while not plan.ready.exists() and child.exitcode is None:
        if time.monotonic() > deadline:
            child.kill()
            raise RuntimeError(f"the worker is not ready after {START_S:g} s")
        time.sleep(0.002)
    return child


def finish(child: ForkServerProcess, timeout_s: float = 120) -> int:
    """Wait for the end of a worker; its exit status, negative for a signal."""
    child.join(timeout_s)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise RuntimeError(f"a worker did not end within {timeout_s:g} s")
    return child.exitcode


def run(plan: Plan) -> int:
    """Start a worker and wait for its end; its exit status."""
    return finish(start(plan))


def make_home(folder: Path, *, logs: tuple[str, ...] = ("a",)) -> tuple[Path, list[Path]]:
    """An empty home below ``folder`` and the logs of its workers beside it."""
    home = folder / "home"
    Store.create(home, INFO).close()
    return home, [folder / f"{name}.jsonl" for name in logs]


def copy_home(source: Path, folder: Path) -> tuple[Path, list[Path]]:
    """A copy of the home below ``source`` and its logs, which no worker uses, in ``folder``."""
    shutil.copytree(source / "home", folder / "home")
    logs = sorted(source.glob("*.jsonl"))
    return folder / "home", [Path(shutil.copy(log, folder)) for log in logs]


class Campaign:
    """One run of a program: what it counted, and the violations it found.

    Args:
        arguments: as parsed; they go into the summary.
    """

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.seed: int = arguments.seed
        self.rounds: int = arguments.rounds
        self.plant: str = arguments.plant
        self._arguments = {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()
        }
        self._base = Path(arguments.folder) if arguments.folder else Path(tempfile.gettempdir())
        self._began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.violations: list[dict[str, Any]] = []

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for one round: removed afterwards, unless the round found a violation."""
        self._base.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._base))
        before = len(self.violations)
        try:
            yield made
        except BaseException:
            print(f"kept for inspection: {made}", file=sys.stderr)
            raise
        if len(self.violations) == before:
            shutil.rmtree(made)

    def judge(
        self, home: Path, logs: list[Path], what: str, bounds: Bounds = STRICT, *, seed: int = 0
    ) -> bool:
        """Judge a home; what is wrong is recorded under ``what``. Whether all is well."""
        return self.record(home, what, judge(home, logs, bounds, seed=seed))

    def record(self, home: Path, what: str, wrong: list[str]) -> bool:
        """Record violations found in ``home``; whether there were none."""
        for line in wrong:
            self.violations.append({"when": what, "wrong": line, "home": str(home)})
        return not wrong

    def counted(self, logs: list[Path]) -> None:
        """Add the acknowledgements of a finished home to the counts."""
        for log in logs:
            account = ledger.read(log)
            self.counts["acknowledged_documents"] += account.acknowledged
            self.counts["acknowledged_operations"] += sum(account.operations.values())

    def summary(self) -> dict[str, Any]:
        """What is printed at the end."""
        return {
            "program": self.name,
            **self._arguments,
            "seconds": round(time.monotonic() - self._began, 1),
            **dict(sorted(self.counts.items())),
            "violations": len(self.violations),
        }

    def end(self) -> int:
        """Print violations to stderr and the summary as one line of JSON; the exit status."""
        for violation in self.violations[:20]:
            print(json.dumps(violation), file=sys.stderr)
        print(json.dumps(self.summary()), flush=True)
        return 1 if self.violations else 0


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Arguments that every program has; the log is silenced, a destroyed index is noisy."""
    logging.disable(logging.CRITICAL)
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    made.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    made.add_argument("--plant", choices=["", *PLANTS], default="", help="plant a bug first")
    made.add_argument("--folder", default="", help="where homes are made; default: temporary")
    return made
