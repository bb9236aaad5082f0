"""Items made by one thread and read by another: who reads slowly, or elsewhere, holds nothing.

A generator that holds a lock while it waits to be read would keep it for as long as its reader
likes, and could only be ended by the thread that began it. Knows nothing of what is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class _End(NamedTuple):
    """What comes after the last item, with what went wrong if anything did."""

    error: BaseException | None = None


def relayed(make: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """What ``make()`` yields, made ahead by a thread of its own from the first item on.

    Once this is closed, or nobody refers to it any more, that thread stops after its next item.

    Args:
        make: gives a generator; run, closed and let fail in that thread. Few items: all are kept.

    Raises:
        BaseException: what ``make`` or its generator raised.
    """
    line: SimpleQueue[Item | _End] = SimpleQueue()
    left = Event()
    Thread(target=_run, args=(make, line, left), name="adapterdb-relay").start()
    try:
        while not isinstance(item := line.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()


def _run(make: Callable[[], Iterator[Item]], line: SimpleQueue[Item | _End], left: Event) -> None:
    try:
        with closing(make()) as items:  # type: ignore[type-var] # a generator
            for item in items:
                if left.is_set():
                    return
                line.put(item)
        line.put(_End())
    except BaseException as error:  # raised where it is read
        line.put(_End(error))
