"""What is shown while documents are taken in: JSON lines on stdout, a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from adapterdb.cli.output import print_json, printable, shorten
from adapterdb.cli.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from adapterdb.database import AdapterDB
    from adapterdb.records import Progress

STDIN = "-"


class Watcher:
    """Told of each document by ``AdapterDB.ingest``; a context manager that owns the bar.

    The bar counts passages. To know how many there will be the sources are read once more before;
    standard input can't be, and shows no end.

    Args:
        chosen: what ``AdapterDB.count`` is to be told besides the paths.
    """

    def __init__(
        self,
        db: AdapterDB,
        settings: Settings,
        paths: Sequence[str],
        **chosen: Any,
    ) -> None:
        self._json = settings.json
        self._bar = _bar() if sys.stderr.isatty() and not settings.quiet else None
        self._task: TaskID | None = None
        self.passages_total: int | None = None
        if self._bar is not None and STDIN not in paths:
            self.passages_total = db.count(list(paths), **chosen)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._task = self._bar.add_task(
                "ingest", total=self.passages_total, speed="", document=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_progress(self, progress: Progress) -> None:
        """Show one more document."""
        if self._json and progress.last is not None:
            print_json(progress.last)
        if self._bar is not None and self._task is not None:
            name = progress.last.id if progress.last else ""
            self._bar.update(
                self._task,
                completed=progress.passages_done,
                speed=f"{progress.passages_done / max(progress.seconds, 1e-9):.1f} passages/s",
                document=shorten(printable(name, one_line=True), 40),
            )


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeLeft(),
        TextColumn("{task.fields[document]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
