"""``adb forget`` and ``adb gc``: what is taken out of the home for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adapterdb.cli.documents import confirm
from adapterdb.cli.options import choosing
from adapterdb.cli.output import counted, print_json, print_note, print_text, size
from adapterdb.cli.settings import Settings, shared

if TYPE_CHECKING:
    from adapterdb.store.upkeep.forget import Receipt


@click.command()
@choosing
@shared
def forget(
    settings: Settings,
    names: tuple[str, ...],
    where: str | None,
    namespace: str,
    yes: bool,
    dry_run: bool,
) -> None:
    """Erase documents from every file of the home, all their versions, and print a receipt.

    Goes further than 'adb delete': texts, vectors, deltas and whatever was derived from them are
    overwritten or their files removed; the index is built anew; then every file is searched for
    what should be gone. The deltas of other documents stay the same. Can't be undone.

    Example:
      adb forget railway.md --yes
      adb forget --where "source LIKE 'mail/%'" --dry-run
    """
    if bool(names) == bool(where):
        raise click.UsageError("give NAMEs or --where, and not both")
    chosen: dict[str, Any] = {"where": where, "namespace": namespace}
    with settings.open(read_only=dry_run) as db:
        if not (yes or dry_run):
            count = db.forget(list(names) or None, dry_run=True, **chosen).documents
            confirm("forget", count, namespace)
        receipt = db.forget(list(names) or None, dry_run=dry_run, **chosen)
    print_json(receipt) if settings.json else _print_receipt(receipt)
    if receipt.residue:
        click.get_current_context().exit(1)


def _print_receipt(receipt: Receipt) -> None:
    r = receipt
    inside = f"{counted(r.versions, 'version')}, {counted(r.passages, 'passage')}"
    what = f"{counted(r.documents, 'document')} ({inside})"
    if r.dry_run:
        print_text(f"would forget {what} from {r.namespace}")
        return
    print_text(f"forgot {what} from {r.namespace} as of change {r.seq}")
    for name in r.names:
        print_text(f"  {name}")
    if r.disabled:
        print_text(
            f"disabled {counted(r.disabled, 'delta')} of clusters: ingest their documents again"
        )
    print_text(
        f"searched {r.searched_files:,} files ({size(r.searched_bytes)}) for {r.samples:,} samples:"
        f" {'nothing left' if not r.residue else 'STILL FOUND in ' + ', '.join(r.residue)}"
    )
    print_text(f"out of reach: {'; '.join(r.out_of_reach)}")
    if r.residue:
        print_note("run 'adb forget' or 'adb fsck --repair' again once nothing else uses the home")


@click.command()
@click.option(
    "--grace", "grace_h", type=float, default=24.0, metavar="HOURS",
    help="Age from which a file that nothing ever named is garbage. Default: 24.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only count.")
@shared
def gc(settings: Settings, grace_h: float, dry_run: bool) -> None:
    """Remove versions that [retention] no longer keeps, and files that nothing names.

    By default replaced versions stay for good and deleted documents for 30 days; adapterdb.toml
    says otherwise: [retention] versions = 5, days = 90, deleted_days = 7. Safe beside other work.

    Example:
      adb gc --dry-run
    """
    with settings.open(read_only=dry_run) as db:
        done = db.maintenance.gc(grace_h=grace_h, dry_run=dry_run)
    if settings.json:
        print_json(done)
        return
    print_text(
        f"{'would remove' if dry_run else 'removed'} {done.versions:,} versions, {done.files:,}"
        f" weight files ({done.rewritten:,} written anew), {done.leftovers:,} leftovers:"
        f" {size(done.size_bytes)}"
    )
