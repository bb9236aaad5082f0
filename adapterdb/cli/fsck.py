"""``adb fsck``: every defect of a home by its code, and mending what can be mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adapterdb.cli.output import print_json, print_text
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterdb.store.upkeep.findings import Finding, Repaired

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.option("--deep", is_flag=True, help="Also read every weight file, text and vector.")
@click.option("--repair", is_flag=True, help="Mend what a deep check finds.")
@shared
def fsck(settings: Settings, deep: bool, repair: bool) -> None:
    """Find what is damaged or left over in the home; changes nothing without --repair.

    Each line names a severity, a code, what is wrong, and what mends it. --repair deletes nothing:
    what it takes away is moved to quarantine/ in the home. It builds a damaged index anew, saves
    rows that can be read, and marks documents whose deltas are lost, so that the next 'adb ingest'
    makes them again. Exits 1 if an error is found, or remains after --repair.

    Example:
      adb fsck --deep
      adb fsck --repair
    """
    found: Sequence[Finding] = []
    repaired: Sequence[Repaired] = []
    try:
        with settings.open(read_only=not repair) as db:
            if repair:
                repaired = db.maintenance.repair()
            found = db.maintenance.check(deep=deep or repair)
    except Corrupt as error:  # not even to be opened
        found = [_unopened(error)]
    ok = all(finding.severity != "error" for finding in found)
    if settings.json:
        print_json({"ok": ok, "findings": found, "repaired": repaired})
    else:
        _print(found, repaired)
    if not ok:
        click.get_current_context().exit(1)


def _unopened(error: Corrupt) -> Finding:
    """A home that can't be opened, as a finding."""
    from adapterdb.store.upkeep.findings import RESTORE, Finding

    code = "format" if error.code == "format" else "catalog"
    return Finding(code, "error", error.message, error.hint or RESTORE, repairable=False)


def _print(found: Sequence[Finding], repaired: Sequence[Repaired]) -> None:
    for act in repaired:
        print_text(f"repaired  {act.code}: {act.what}: {act.done}")
    for finding in found:
        click.echo(click.style(f"{finding.severity:9}", fg=_COLORS[finding.severity]), nl=False)
        print_text(f" {finding.code}: {finding.what}")
        print_text(f"{'':10}mend: {finding.mend}")
    if not found:
        print_text("nothing is wrong")
