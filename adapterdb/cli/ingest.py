"""``adb ingest``: documents in, and what became of each, as it becomes durable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from adapterdb.cli.making import making, parse_clusters
from adapterdb.cli.options import NAMESPACE, parse_tags
from adapterdb.cli.output import print_estimate, print_json, print_report, to_json
from adapterdb.cli.progress import Watcher
from adapterdb.cli.settings import Settings, shared


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--glob", metavar="PATTERN", help="Only files whose relative path matches.")
@NAMESPACE
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="[K=]V",
    help="Add a field to every document; a bare V is a tag. Repeatable.",
)
@making
@click.option("--dry-run", is_flag=True, help="Only print what it would cost.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write the totals there as JSON.")
@shared
def ingest(
    settings: Settings,
    paths: tuple[str, ...],
    glob: str | None,
    namespace: str,
    tags: tuple[str, ...],
    recipe: str | None,
    weighting: str | None,
    clusters: str | None,
    representative: str | None,
    dry_run: bool,
    report: str | None,
) -> None:
    """Turn documents into stored deltas.

    PATH is a file, a folder, or - for JSON Lines on standard input. What is stored already is
    skipped, so running the same command again takes up where it stopped. With --json, one line
    for each document after its commit, then a summary. Exits 1 if a document was rejected.

    Example:
      adb ingest notes/ --glob "*.md" --tag work --tag year=2024
      adb ingest rows.jsonl --recipe knowledge --namespace facts
      adb ingest - --json < documents.jsonl
    """
    metadata, grouped = parse_tags(tags), parse_clusters(clusters, representative)
    made: dict[str, Any] = {"namespace": namespace, "recipe": recipe, "weighting": weighting}
    with settings.open(read_only=dry_run) as db:
        if dry_run:
            estimate = db.estimate(paths, glob=glob, stdin=sys.stdin.buffer, **made)
            print_json(estimate) if settings.json else print_estimate(estimate)
            return
        made["clusters"] = grouped
        with Watcher(db, settings, paths, glob=glob, **made) as watcher:
            done = db.ingest(
                paths, metadata=metadata, glob=glob, stdin=sys.stdin.buffer,
                passages_total=watcher.passages_total, on_progress=watcher.on_progress, **made,
            )  # fmt: skip
    if report:
        Path(report).write_text(to_json(done) + "\n", encoding="utf-8")
    print_json({"event": "summary", **done.to_dict()}) if settings.json else print_report(done)
    if done.rejected:
        click.get_current_context().exit(1)
