"""Records to tables for people or to JSON for programs; results on stdout, the rest on stderr.

Text out of documents may hold terminal control sequences: for people they are escaped, in JSON
every character beyond ASCII is.
"""

from __future__ import annotations

import json as json_module
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from adapterdb.errors import AdapterDBError

if TYPE_CHECKING:
    from adapterdb.answers import Answer
from adapterdb.records import Estimate, IngestReport

PIPE_WIDTH = 160  # columns of a table that goes to no terminal
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str, *, one_line: bool = False) -> str:
    """``text`` with characters that could move the cursor or hide text written as escapes.

    Newlines and tabs stay, or become spaces with ``one_line``.
    """
    kept = "" if one_line else "\n\t"
    if one_line:
        text = " ".join(text.split())
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def print_text(text: str) -> None:
    """Print text of any origin for people."""
    click.echo(printable(text))


def print_note(text: str) -> None:
    """Tell people something on stderr."""
    click.echo(printable(text), err=True)


def print_json(data: Any) -> None:
    """Print one JSON document on one line, and flush it."""
    click.echo(to_json(data))


def to_json(data: Any) -> str:
    """``data`` as JSON: ASCII only, NaN and infinity as null."""
    return json_module.dumps(_plain(data), allow_nan=False)


def _plain(data: Any) -> Any:
    if is_dataclass(data) and not isinstance(data, type):
        data = asdict(data)
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def print_error(error: AdapterDBError, *, json: bool, trace: bool) -> None:
    """Print an error on stderr; ``trace`` adds where it came from."""
    if trace:
        traceback.print_exc(file=sys.stderr)
    if json:
        click.echo(to_json({"error": error.to_dict()}), err=True)
        return
    click.echo(f"{click.style('error:', fg='red')} {printable(error.message)}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {printable(error.hint)}", err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under named columns; numbers to the right, nothing is cut off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        number = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if terminal else PIPE_WIDTH,
        no_color=click.get_current_context().color is False,
        highlight=False,
    )
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(str(value), one_line=True)


def print_answer(answer: Answer, *, text: bool, sources: bool) -> None:
    """Print an answer for people: its text, its sources, and a note where there is one.

    Args:
        answer: what to print.
        text: whether the text itself is still to be printed.
        sources: whether the sources are wanted.
    """
    if text:
        print_text(answer.text)
    if sources and answer.sources:
        click.echo()
        print_table(
            ("weight", "similarity", "document", "span", "delta", "text"),
            [
                (s.weight, s.similarity, f"{s.document}@{s.version}", f"{s.start}-{s.end}",
                 s.delta_id[:12], shorten(s.text))
                for s in answer.sources
            ],
        )  # fmt: skip
    if answer.note:
        print_note(f"note: {answer.note}")


def print_estimate(estimate: Estimate) -> None:
    """Print what an ingest would cost."""
    e = estimate
    documents = f"documents {e.documents:,} ({e.known:,} known, {e.rejected:,} rejected)"
    click.echo(f"{documents}   passages {e.passages:,}   tokens {e.tokens:,}")
    click.echo(
        f"trial: {e.trial_passages} passages, {e.seconds_per_passage:.3g} s each"
        f" -> about {duration(e.seconds)}; {size(e.size_bytes)} of deltas and vectors"
    )


def print_report(report: IngestReport) -> None:
    """Print the totals of an ingest, and why documents were rejected."""
    r = report
    for failure in r.failures:
        print_note(f"rejected {failure.id}: {failure.message} [{failure.code}]")
    speed = f", {r.passages / r.seconds:.1f} passages/s" if r.passages and r.seconds else ""
    click.echo(
        f"added {r.added:,}   updated {r.updated:,}   skipped {r.skipped:,}"
        f"   rejected {r.rejected:,}   passages {r.passages:,}"
        f"   {size(r.size_bytes)} in {duration(r.seconds)}{speed}"
    )


def shorten(text: str, chars: int = 60) -> str:
    """The beginning of ``text`` on one line, with an ellipsis where something was left out."""
    line = " ".join(text.split())
    return line if len(line) <= chars else line[: chars - 3].rstrip() + "..."


def size(size_bytes: int) -> str:
    """Bytes in the largest decimal unit that leaves a number of 1 or more."""
    value, unit = float(size_bytes), _UNITS[0]
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """A number of things, in the singular for one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``3 min 20 s``, ``10 h 8 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
