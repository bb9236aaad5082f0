"""``adb list``, ``adb show`` and ``adb delete``: what is stored."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from adapterdb.cli.options import AS_OF, NAMESPACE, WHERE, choosing
from adapterdb.cli.output import counted, print_json, print_note, print_table, print_text
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from adapterdb.database import AdapterDB
    from adapterdb.records import Delta, StoredDocument


@click.command("list")
@click.argument("what", type=click.Choice(["documents", "namespaces"]), default="documents")
@WHERE
@click.option("--namespace", metavar="NAME", help="Only this part of the home. Default: all.")
@click.option("--limit", type=int, default=100, metavar="N", help="At most N. Default: 100.")
@click.option("--offset", type=int, default=0, metavar="N", help="Leave out the first N.")
@AS_OF
@shared
def list_(settings: Settings, /, what: str, **options: Any) -> None:
    """List documents or namespaces. 'ls' is the same.

    Example:
      adb list --where "year >= 2020 AND tag = 'law'" --limit 20
      adb list namespaces
    """
    with settings.open(read_only=True) as db:
        if what == "namespaces":
            names = db.namespaces()
            print_json(names) if settings.json else print_text("\n".join(names))
            return
        documents = db.list(**options)
    if settings.json:
        print_json(documents)
        return
    print_table(
        ("namespace", "name", "version", "passages", "title", "created"),
        [(d.namespace, d.name, d.version, d.passages, d.title, d.created_at) for d in documents],
    )


@click.command()
@click.argument("name")
@NAMESPACE
@click.option("--text", is_flag=True, help="Also the text.")
@shared
def show(settings: Settings, name: str, namespace: str, text: bool) -> None:
    """Show a document and its deltas, or one delta.

    NAME is a document (name, or name@2 for a version), or the id of a delta or its first 6 or
    more characters.

    Example:
      adb show railway.md --text
    """
    with settings.open(read_only=True) as db:
        try:
            record: StoredDocument | Delta = db.get(name, namespace=namespace)
        except NotFound as missing:
            record = _delta(db, name, missing)
            found: dict[str, Any] = {
                "delta": record,
                "text": _delta_text(db, record) if text else None,
            }
        else:
            found = {
                "document": record,
                "deltas": db.deltas(name, namespace=namespace),
                "text": db.text(name, namespace=namespace) if text else None,
            }
    if settings.json:
        print_json({key: value for key, value in found.items() if value is not None})
        return
    print_table(("field", "value"), [*record.to_dict().items()])
    _print_deltas(found.get("deltas"))
    if text:
        click.echo()
        print_text(str(found["text"]))


def _delta(db: AdapterDB, name: str, missing: NotFound) -> Delta:
    """The delta ``name`` begins; what is said to be missing, if there is none, is the document."""
    try:
        return db.delta(name)
    except (NotFound, InvalidInput) as error:
        if error.code == "ambiguous":
            raise
        raise missing from error


def _delta_text(db: AdapterDB, delta: Delta) -> str:
    name = f"{delta.document}@{delta.version}"
    return db.text(name, namespace=delta.namespace)[delta.start : delta.end]


def _print_deltas(deltas: list[Delta] | None) -> None:
    if deltas:
        click.echo()
        print_table(
            ("delta", "kind", "recipe", "span", "norm", "loss before", "loss after", "bytes",
             "flag"),
            [
                (d.id[:12], d.kind, d.recipe, f"{d.start}-{d.end}", d.norm,
                 "" if d.loss_before is None else d.loss_before,
                 "" if d.loss_after is None else d.loss_after, d.size_bytes, d.flag)
                for d in deltas
            ],
        )  # fmt: skip


@click.command()
@choosing
@shared
def delete(
    settings: Settings,
    names: tuple[str, ...],
    where: str | None,
    namespace: str,
    yes: bool,
    dry_run: bool,
) -> None:
    """Make documents and their deltas unreachable, at once and for every process.

    Example:
      adb delete railway.md --yes
      adb delete --where "year < 1990" --dry-run
    """
    if bool(names) == bool(where):
        raise click.UsageError("give NAMEs or --where, and not both")
    chosen: dict[str, Any] = {"where": where, "namespace": namespace}
    with settings.open(read_only=dry_run) as db:
        if not (yes or dry_run):
            count = db.delete(list(names) or None, dry_run=True, **chosen)
            confirm("delete", count, namespace)
        count = db.delete(list(names) or None, dry_run=dry_run, **chosen)
    if settings.json:
        print_json({"deleted": 0 if dry_run else count, "matched": count, "dry_run": dry_run})
        return
    print_text(
        f"{'would delete' if dry_run else 'deleted'} {counted(count, 'document')} from {namespace}"
    )


def confirm(verb: str, count: int, namespace: str) -> None:
    """Ask on a terminal; without one, refuse."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(
            f"{verb} asks before it acts, and there is no terminal to ask on",
            code="needs_yes",
            hint="add --yes",
        )
    print_note(f"this will {verb} {counted(count, 'document')} of namespace {namespace!r}")
    click.confirm("go on?", abort=True, err=True)
