"""``adb backup``, ``adb restore`` and ``adb optimize``: keeping a home, and keeping it quick."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adapterdb.cli.output import print_json, print_note, print_table, print_text, size
from adapterdb.cli.settings import HOME, Settings, shared

if TYPE_CHECKING:
    from adapterdb.store.upkeep.backup import CopyReport


@click.command()
@click.argument("folder", metavar="DIR")
@shared
def backup(settings: Settings, folder: str) -> None:
    """Copy the home, as it is at one moment, into the new folder DIR.

    Others may go on ingesting and asking meanwhile. DIR appears when it is whole; it is a home
    itself, with its catalog in SQLite. Every weight file is checked against its sha256; what is
    lost or damaged is named, and the exit is 1.

    Example:
      adb backup /mnt/backups/notes-2026-05-01
    """
    with settings.open(read_only=True) as db:
        _print_copy(settings, db.maintenance.backup(folder), "backed up")


@click.command()
@click.argument("source", metavar="BACKUP")
@shared
def restore(settings: Settings, source: str) -> None:
    """Make a new home from BACKUP, in the folder --database names, or ./.adapterdb.

    With --catalog its catalog goes into another, empty database. BACKUP is only read. Every weight
    file is checked against its sha256; what is lost or damaged is named, and the exit is 1.

    Example:
      adb restore /mnt/backups/notes-2026-05-01 --database notes
    """
    from adapterdb.database import AdapterDB

    target = settings.database or HOME
    report = AdapterDB.restore(source, target, catalog=settings.catalog)
    _print_copy(settings, report, "restored")


@click.command()
@click.option("--namespace", metavar="NAME", help="Only this part of the home. Default: all.")
@shared
def optimize(settings: Settings, namespace: str | None) -> None:
    """Make the search index small and quick again, and hold it against the catalog.

    Changes still pending are applied, older versions of the index removed, and an index that
    differs from the catalog is rebuilt. Others may go on ingesting and asking meanwhile.

    Example:
      adb optimize
    """
    with settings.open() as db:
        done = db.maintenance.optimize(namespace=namespace)
    if settings.json:
        print_json(done)
        return
    print_table(
        ("namespace", "passages", "before", "after", "rebuilt"),
        [
            (o.namespace, o.rows, size(o.bytes_before), size(o.bytes_after),
             "yes" if o.rebuilt else "no")
            for o in done
        ],
    )  # fmt: skip


def _print_copy(settings: Settings, report: CopyReport, done: str) -> None:
    """Print what was copied; exit 1 if something of the source is not as it was stored."""
    if settings.json:
        print_json(report)
    else:
        for problem in report.problems:
            print_note(f"problem: {problem}")
        print_text(
            f"{done} {report.documents:,} documents, {report.deltas:,} deltas, {report.files:,}"
            f" weight files, {size(report.size_bytes)}, up to change {report.seq} to {report.path}"
        )
    if report.problems:
        click.get_current_context().exit(1)
