"""Runs cases in a child process that they may hang, bloat or kill, and says what they did to it.

Linux only: the peak of memory is reset and read through ``/proc/self``.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a case did: its value, or how it ended; seconds, and bytes of memory at its peak."""

    value: Any
    failed: str
    seconds: float
    grown_bytes: int


class CaseRunner:
    """One child process for many cases; a new one after each death.

    Args:
        run: called with a case; must be importable, for children are spawned, not forked.
        seconds: after which a case counts as hanging and its process is killed.
    """

    def __init__(self, run: Callable[[Any], Any], seconds: float) -> None:
        self._run, self._seconds = run, seconds
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._child = self._context.Process(target=_serve, args=(self._run, theirs), daemon=True)
        self._child.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def run(self, case: Any) -> Outcome:
        """What ``case`` did to the child."""
        began = time.monotonic()
        self._pipe.send(case)
        try:
            if self._pipe.poll(self._seconds):
                return Outcome(*self._pipe.recv())
            failed = f"hangs for over {self._seconds:g} s"
        except EOFError:
            self._child.join()
            failed = f"died with status {self._child.exitcode}"
        self.close()
        self._start()
        return Outcome(None, failed, time.monotonic() - began, 0)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.join()
        self._pipe.close()

    def __enter__(self) -> CaseRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(run: Callable[[Any], Any], pipe: Any) -> None:
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, began = _memory("VmRSS"), time.monotonic()
        value, failed = None, ""
        try:
            value = run(case)
        except Exception as error:
            failed = f"raised {type(error).__name__}: {str(error)[:200]}"
        seconds = time.monotonic() - began
        pipe.send((value, failed, seconds, max(0, _memory("VmHWM") - before)))


def _memory(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
