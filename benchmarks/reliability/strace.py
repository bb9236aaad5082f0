"""strace: attaching it to a worker that waits, to record its system calls or to make them fail."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reliability.campaign import START_S, finish, start
from benchmarks.reliability.workload import Plan


def run_traced(
    plan: Plan,
    output: Path,
    options: Sequence[str],
    timeout_s: float = 120,
) -> int:
    """Carry out ``plan`` under strace from the moment the worker waits; its exit status.

    Args:
        plan: must wait.
        output: where the trace goes.
        options: of strace, beyond following all threads of the worker.
    """
    assert plan.waits, "the worker would have begun before it is traced"
    child = start(plan)
    said = output.with_suffix(".said")
    with said.open("wb") as errors:
        command = ["strace", "-f", "-o", str(output), *options, "-p", str(child.pid)]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        threads = len(list(Path(f"/proc/{child.pid}/task").iterdir()))
        deadline = time.monotonic() + START_S
        while (words := said.read_text()).count("attached") < 1 or _untraced(child.pid):
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"strace is not attached to {threads} threads: {words}")
            time.sleep(0.005)
        plan.go.touch()
        return finish(child, timeout_s)
    finally:
        if child.exitcode is None:
            child.kill()
        try:
            tracer.wait(10)
        except subprocess.TimeoutExpired:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait(10)


def _untraced(process: int | None) -> bool:
    """Whether a thread of the process is not traced."""
    for task in Path(f"/proc/{process}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        if "TracerPid:\t0" in lines:
            return True
    return False
