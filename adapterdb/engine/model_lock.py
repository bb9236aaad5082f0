"""The lock of whoever runs the model: inside it the weights are the base's own, or what is folded.

One thread may take it again inside itself (asking or ingesting inside ``applied``): then what the
outer holder has folded is out of the weights for as long as the inner one holds the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from adapterdb.engine.fold import Fold


class ModelLock:
    """A reentrant lock over one model's weights."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._folds: list[Fold | None] = []  # of the holders, the innermost last
        self._holder: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()
        self._push(None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pop()
        if not self._folds:
            self._holder = None
        self._lock.release()

    @contextmanager
    def folding(self, fold: Fold) -> Iterator[None]:
        """``fold`` in the weights; only for who holds the lock."""
        self._push(fold)
        try:
            yield
        finally:
            self._pop()

    def _push(self, fold: Fold | None) -> None:
        if self._folds and (outer := self._folds[-1]) is not None:
            outer.take_out()
        self._folds.append(fold)
        if fold is not None:
            fold.put_in()

    def _pop(self) -> None:
        fold = self._folds.pop()
        if fold is not None:
            fold.take_out()
        if self._folds and (outer := self._folds[-1]) is not None:
            outer.put_in()
