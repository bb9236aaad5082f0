"""The request queue: what comes while the model is busy is answered together in the next batch.

There is no thread of its own. Of the callers that wait, one leads: it takes what is first in line,
its own and others', runs it as one batch, and hands out the results. Knows nothing of models.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ticket(Generic[Item, Result]):
    """One item in line, and what became of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answered = self.done = False
        self.result: Result | None = None
        self.error: BaseException | None = None


class RequestQueue(Generic[Item, Result]):
    """Batches the items of concurrent callers.

    Args:
        run: answers a batch of items, in order; never called by two callers at once.
        size: items in a batch at most.

    Attributes:
        batches: how many have been run.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], size: int) -> None:
        self._run, self._size = run, size
        self._turn = threading.Condition()
        self._line: deque[_Ticket[Item, Result]] = deque()
        self._busy = False
        self.batches = 0

    def ask(self, items: Sequence[Item]) -> list[Result]:
        """The results of ``items``, in order; waits for its turn.

        Raises:
            Exception: what ``run`` raised for one of them, when asked for it alone.
        """
        mine: list[_Ticket[Item, Result]] = [_Ticket(item) for item in items]
        with self._turn:
            self._line.extend(mine)
        while batch := self._my_turn(mine):
            try:
                self._answer(batch)
            finally:
                self._leave(batch, mine)
        for ticket in mine:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.result for ticket in mine]  # type: ignore[misc] # done without error

    def _my_turn(self, mine: Sequence[_Ticket[Item, Result]]) -> list[_Ticket[Item, Result]] | None:
        """Wait until ``mine`` are done (None) or until it is time to lead: the batch to run."""
        with self._turn:
            self._turn.wait_for(lambda: not self._busy or all(t.done for t in mine))
            if all(ticket.done for ticket in mine):
                return None
            self._busy = True
            return [self._line.popleft() for _ in range(min(self._size, len(self._line)))]

    def _answer(self, batch: Sequence[_Ticket[Item, Result]]) -> None:
        """Run a batch; if it fails, every item by itself, so that one can't spoil the others."""
        self.batches += 1
        try:
            results = self._run([ticket.item for ticket in batch])
        except Exception as error:  # an ingest-like loop: the others go on
            if len(batch) == 1:
                batch[0].error, batch[0].answered = error, True
                return
            for ticket in batch:
                self._answer([ticket])
            return
        for ticket, result in zip(batch, results, strict=True):
            ticket.result, ticket.answered = result, True

    def _leave(
        self, batch: Sequence[_Ticket[Item, Result]], mine: Sequence[_Ticket[Item, Result]]
    ) -> None:
        """Hand over the lead; what an interrupt has left of others goes back to the front."""
        with self._turn:
            for ticket in reversed(batch):
                ticket.done = ticket.answered
                if not ticket.answered and ticket not in mine:
                    self._line.appendleft(ticket)
            self._busy = False
            self._turn.notify_all()
