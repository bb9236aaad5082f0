"""``adb stats`` and ``adb doctor``: how much there is, and whether it is well."""

from __future__ import annotations

import click

from adapterdb.cli.output import print_json, print_table, print_text, size
from adapterdb.cli.settings import Settings, shared

_COLORS = {"pass": "green", "warn": "yellow", "fail": "red", "could-not-run": "red"}


@click.command()
@click.option("--namespace", metavar="NAME", help="Only this part of the home. Default: all.")
@shared
def stats(settings: Settings, namespace: str | None) -> None:
    """Count what is stored, and its bytes.

    Example:
      adb stats --json
    """
    with settings.open(read_only=True) as db:
        found = db.stats(namespace=namespace)
    if settings.json:
        print_json(found)
        return
    print_table(
        ("what", "how much"),
        [
            (name.replace("_bytes", "").replace("_", " "), _shown(name, value))
            for name, value in found.to_dict().items()
        ],
    )


def _shown(name: str, value: float | None) -> str:
    if name.endswith("_bytes"):
        return size(int(value or 0))
    if name.startswith("loss_"):
        return "not measured" if value is None else f"{value:.3f} nats per token"
    return f"{value:,}"


@click.command()
@shared
def doctor(settings: Settings) -> None:
    """Check the installation and the home; changes nothing.

    Each line says pass, warn, fail or could-not-run, and how to mend it. Exits 1 if anything
    failed or could not be checked.

    Example:
      adb doctor
    """
    from adapterdb.cli.checkup import checkup

    checks = checkup(settings)
    ok = all(check.status in ("pass", "warn") for check in checks)
    if settings.json:
        print_json({"ok": ok, "checks": checks})
    else:
        for check in checks:
            status = click.style(f"{check.status:13}", fg=_COLORS[check.status])
            click.echo(status, nl=False)
            print_text(f" {check.name}: {check.what}")
            if check.mend:
                print_text(f"{'':14}mend: {check.mend}")
    if not ok:
        click.get_current_context().exit(1)
