"""System calls of a worker, read from a trace by ``strace -f -y -xx``.

All texts in such a trace, names and data, are hexadecimal, so nothing needs to be unquoted. Calls
that another thread's interrupted are put together again; they come in the order of their ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HEX = r"(?:\\x[0-9a-f]{2})*"
STRING = re.compile(f'"({HEX})"')
BEHIND = re.compile(f"<({HEX})>")  # what a descriptor names, after its number
WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (.*)")
BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)")
OPTIONS = ("-y", "-xx", "-s", "100000000")  # data whole


@dataclass(frozen=True)
class Call:
    """One system call.

    Args:
        arguments, result: as strace wrote them.
        begun: order of its beginning among all lines; ``ended`` likewise.
    """

    thread: int
    name: str
    arguments: str
    result: str
    begun: int
    ended: int

    @property
    def injected(self) -> bool:
        """Whether strace made it fail."""
        return "(INJECTED)" in self.result

    @property
    def failed(self) -> bool:
        """Whether it failed or never returned."""
        return self.result.startswith(("-1", "?"))

    @property
    def value(self) -> int:
        """What it returned."""
        return int(re.split(r"[< ]", self.result)[0], 0)

    @cached_property
    def strings(self) -> list[bytes]:
        """Texts among its arguments: the names given, or the data."""
        return [_bytes(found) for found in STRING.findall(self.arguments)]

    @property
    def descriptor(self) -> int:
        """The first descriptor among its arguments."""
        return int(self.arguments.split("<")[0].split("(")[-1])

    @cached_property
    def behind(self) -> str:
        """What the first descriptor names; for a call that makes one, what the new one names."""
        text = self.result if self.name == "openat" else self.arguments
        found = BEHIND.search(text)
        return _bytes(found[1]).decode() if found else ""

    def touches(self, folder: Path) -> bool:
        """Whether it names something in ``folder``, by descriptor or by name."""
        start = f"{folder}/"
        names = [self.behind, *(text.decode(errors="replace") for text in self.strings[:2])]
        return any(name == str(folder) or name.startswith(start) for name in names)


def calls(path: Path) -> Iterator[Call]:
    """The calls in the trace at ``path``."""
    open_calls: dict[str, tuple[str, str, int]] = {}
    with path.open(encoding="ascii", errors="replace") as lines:
        for i, line in enumerate(lines):
            if begun := BEGUN.match(line):
                open_calls[begun[1]] = begun[2], begun[3], i
            elif resumed := RESUMED.match(line):
                name, arguments, at = open_calls.pop(resumed[1], (resumed[2], "", i))
                yield Call(int(resumed[1]), name, arguments + resumed[3], resumed[4], at, i)
            elif whole := WHOLE.match(line):
                yield Call(int(whole[1]), whole[2], whole[3], whole[4], i, i)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
