"""``adb history`` and ``adb rollback``: what happened to a document, and going back."""

from __future__ import annotations

import click

from adapterdb.cli.options import NAMESPACE
from adapterdb.cli.output import print_json, print_table, print_text
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import InvalidInput


@click.command()
@click.argument("name")
@NAMESPACE
@shared
def history(settings: Settings, name: str, namespace: str) -> None:
    """Show what happened to a document, latest first.

    Each line is a change: its number and time serve as --as-of of ask, search and list, and a
    version that is still kept can be made the active one again by 'adb rollback'.

    Example:
      adb history railway.md
    """
    with settings.open(read_only=True) as db:
        changes = db.history(name, namespace=namespace)
    if settings.json:
        print_json(changes)
        return
    print_table(
        ("change", "time", "what", "version", "kept"),
        [(str(c.seq), c.at, c.op, c.version, "yes" if c.kept else "no") for c in changes],
    )


@click.command()
@click.argument("target", metavar="NAME@VERSION")
@NAMESPACE
@shared
def rollback(settings: Settings, target: str, namespace: str) -> None:
    """Make an earlier version of a document the active one again, as a new version.

    Nothing is trained anew. A deleted document comes back the same way, for as long as it is kept.

    Example:
      adb rollback railway.md@2
    """
    name, at, version = target.rpartition("@")
    if not at or not name or not (version.isascii() and version.isdigit()):
        raise InvalidInput(
            f"{target!r} names no version: write NAME@VERSION, like notes.md@2",
            hint="'adb history NAME' shows the versions",
        )
    with settings.open() as db:
        stored = db.rollback(name, int(version), namespace=namespace)
    if settings.json:
        print_json(stored)
        return
    print_text(f"{stored.name} is as version {version} again, now version {stored.version}")
