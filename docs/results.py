"""Writes the tables of ``results.md`` from what ``adb bench`` found.

    python docs/results.py bench-squad bench-pubmedqa ...

What stands above the first line that begins with ``## `` is kept, for people wrote it; so are the
sections of runs that are not named. A run takes the place of the section with its heading.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from adapterdb.benchmark.outcome import Curve, Figure, Table
from adapterdb.benchmark.report.metric import Metric, sure
from adapterdb.benchmark.report.report import quantity
from adapterdb.benchmark.results import Results, Row, Summary

FILE = Path(__file__).with_name("results.md")
FIGURES = 24  # of a table; the rest is in its results.json
FIRST = 3  # metrics shown with their intervals; of others the mean


def page(folders: list[Path], text: str) -> str:
    """The whole page: what people wrote, then a section for each run, the old ones in place."""
    head, *old = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    sections = {heading(each): each for each in old}
    sections |= {heading(new): new for new in map(section, map(Results.read, folders))}
    return "\n\n".join(part.rstrip() for part in (head, *sections.values())) + "\n"


def heading(section: str) -> str:
    """The first line of a section."""
    return section.split("\n", 1)[0]


def section(results: Results) -> str:
    """All tables of one run."""
    asked = results.setup["dataset"]
    settings = results.setup["settings"]
    lines = [f"## {asked['name']}: {', '.join(table.protocol for table in results.tables)}", ""]
    command = re.sub(r" --out \S+", "", results.setup["command"])
    lines += ["```sh", command, "```", ""]
    machine = f"{results.machine.get('processor', '')}, torch {results.versions['torch']}"
    base = results.setup["fingerprints"]["base_model"][:12]
    lines += [
        f"{results.made[:10]}, seed {settings['seed']}, base model `{base}`, {machine}.".replace(
            ", ,", ","
        ),
        "",
    ]
    for table, summary in zip(results.tables, results.summaries, strict=True):
        lines += [f"### {table.title}", ""]
        lines += [*rows(table, summary), ""] if summary.rows else []
        lines += [*figures(table.figures), ""] if table.figures else []
        for curve in table.curves:
            lines += [f"{curve.name}:", "", *points(curve), ""]
        lines += [f"- {note}" for note in table.notes]
        lines += [""] if table.notes else []
    return "\n".join(lines)


def rows(table: Table, summary: Summary) -> Iterator[str]:
    """Cells by metrics, controls last."""
    held = [name for name in table.metrics if any(name in row.scores for row in summary.rows)]
    metrics = [Metric.of(table, name) for name in held]
    controls = {measured.cell.name for measured in table.cells if measured.cell.control}
    units = [f"{metric.label}{' %' if metric.share else ''}" for metric in metrics]
    reference = [f"less {summary.reference}"] if summary.reference else []
    head = ["", *units[:1], *reference, *units[1:], "ms p50", "prompt tokens"]
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in sorted(summary.rows, key=lambda row: row.cell in controls):
        cells = [f"*{row.cell}*" if row.cell in controls else row.cell]
        for i, metric in enumerate(metrics):
            cells.append(score(row, metric, with_interval=i < FIRST))
            if i == 0 and reference:
                apart = row.apart.get(metric.name)
                mark = "*" if apart and sure(apart) else ""
                cells.append(f"{metric.signed(apart.mean)}{mark}" if apart else "")
        for key in ("total_p50_ms", "tokens_in"):
            cells.append(f"{row.costs[key]:,.0f}" if key in row.costs else "")
        yield "| " + " | ".join(cells) + " |"


def score(row: Row, metric: Metric, *, with_interval: bool) -> str:
    """A mean, perhaps with its interval; empty where the cell has no such metric."""
    found = row.scores.get(metric.name)
    if found is None:
        return ""
    text = metric.text(found.mean)
    if with_interval and found.low < found.high:
        text += f" [{metric.text(found.low)}, {metric.text(found.high)}]"
    return text


def figures(found: tuple[Figure, ...]) -> Iterator[str]:
    """Numbers that follow from several cells."""
    yield "| figure | value | |"
    yield "|---|---|---|"
    for figure in found[:FIGURES]:
        value = quantity(figure.value, figure.unit)
        if figure.low is not None and figure.high is not None and figure.low < figure.high:
            ends = (quantity(end, figure.unit) for end in (figure.low, figure.high))
            value += f" [{', '.join(ends)}]"
        yield f"| {figure.name} | {value} | {figure.meaning} |"
    if len(found) > FIGURES:
        yield f"| and {len(found) - FIGURES} more | | |"


def points(curve: Curve) -> Iterator[str]:
    """A curve as a table: one row for each place on the axis."""
    places = sorted({point.x for line in curve.series.values() for point in line})
    yield f"| {curve.x} | " + " | ".join(curve.series) + " |"
    yield "|---" * (len(curve.series) + 1) + "|"
    for x in places:
        row = [f"{x:g}"]
        for line in curve.series.values():
            at = next((point for point in line if point.x == x), None)
            row.append("" if at is None else f"{at.y:.3g}")
        yield "| " + " | ".join(row) + " |"


def main() -> None:
    """Write the page."""
    if len(sys.argv) < 2:
        raise SystemExit("name the folders that adb bench wrote results.json to")
    text = FILE.read_text(encoding="utf-8") if FILE.exists() else "# Results\n"
    FILE.write_text(page([Path(name) for name in sys.argv[1:]], text), encoding="utf-8")


if __name__ == "__main__":
    main()
