"""The request queue: what waits is batched, and nobody answers for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from adapterdb.engine.queue import RequestQueue


def test_what_waits_is_answered_together() -> None:
    """While one batch runs, the requests of other threads gather and share the next."""
    first, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        first.set()
        assert go.wait(10)
        return [10 * item for item in items]

    queue = RequestQueue(run, 16)
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: queue.ask([n, n + 100])}))
        for n in range(6)
    ]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(queue._line) < 10:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join(10)
    assert found == {n: [10 * n, 10 * n + 1000] for n in range(6)}
    assert batches[0] == [0, 100]
    assert sorted(batches[1]) == sorted([*range(1, 6), *range(101, 106)])
    assert queue.batches == 2


def test_a_batch_is_bounded() -> None:
    """No batch is larger than the size, and the order of one caller's items is kept."""
    sizes: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return list(items)

    assert RequestQueue(run, 3).ask(list(range(8))) == list(range(8))
    assert sizes == [3, 3, 2]
    assert RequestQueue(run, 3).ask([]) == []


def test_one_bad_item_spoils_no_other() -> None:
    """An item that can't be answered raises for its own caller; the others are answered."""
    first, go = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> list[int]:
        if items == [0]:
            first.set()
            assert go.wait(10)
        if -1 in items:
            raise ValueError("bad")
        return list(items)

    queue = RequestQueue(run, 16)
    outcomes: dict[int, object] = {}

    def ask(n: int) -> None:
        try:
            outcomes[n] = queue.ask([n])
        except ValueError as error:
            outcomes[n] = error

    threads = [threading.Thread(target=ask, args=(n,)) for n in (0, 1, -1, 2)]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(queue._line) < 3:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join(10)
    assert {n: outcomes[n] for n in (0, 1, 2)} == {0: [0], 1: [1], 2: [2]}
    assert isinstance(outcomes[-1], ValueError)


def test_an_interrupt_leaves_others_their_turn() -> None:
    """Who leads and is interrupted hands the lead over; the rest of the batch is answered."""
    first, go = threading.Event(), threading.Event()
    calls = []

    def run(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        if len(calls) == 1:
            first.set()
            assert go.wait(10)
            raise KeyboardInterrupt
        return list(items)

    queue = RequestQueue(run, 16)
    found: list[list[int]] = []

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            queue.ask([0])

    leader = threading.Thread(target=lead)
    leader.start()
    assert first.wait(10)
    other = threading.Thread(target=lambda: found.append(queue.ask([1])))
    other.start()
    while len(queue._line) < 1:
        time.sleep(0.001)
    go.set()
    leader.join(10)
    other.join(10)
    assert found == [[1]]
    assert calls == [[0], [1]]
