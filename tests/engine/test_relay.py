"""Items made by one thread and read by another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from adapterdb.engine.relay import relayed


def counted(seen: list[int], lock: threading.Lock, count: int = 3) -> Iterator[int]:
    """Numbers from 0, with ``lock`` held until the last has been made or this is closed."""
    with lock:
        for number in range(count):
            seen.append(number)
            yield number


def test_items_come_in_order_and_the_lock_is_free_before_they_are_read() -> None:
    """Who has read only the first item holds nothing that another needs."""
    seen, lock = list[int](), threading.Lock()
    items = relayed(lambda: counted(seen, lock))
    assert next(items) == 0
    assert lock.acquire(timeout=10)
    lock.release()
    assert seen == [0, 1, 2]
    assert list(items) == [1, 2]


def test_any_thread_may_close_it_and_it_stops() -> None:
    """Closed by a thread that never read it, endless making ends and what it held is free."""
    seen, lock = list[int](), threading.Lock()
    items = relayed(lambda: counted(seen, lock, 10**9))
    next(items)
    closer = threading.Thread(target=items.close)  # type: ignore[attr-defined] # a generator
    closer.start()
    closer.join(10)
    assert lock.acquire(timeout=10)


def test_what_goes_wrong_is_raised_where_it_is_read() -> None:
    """After the items before it, and with nothing held."""

    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = relayed(failing)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
