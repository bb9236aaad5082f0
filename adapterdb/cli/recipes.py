"""``adb recipes``: the named presets, and one of them to read, copy and change."""

from __future__ import annotations

import click

from adapterdb.cli.output import print_json, print_table
from adapterdb.cli.settings import Settings, shared


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@shared
def recipes(settings: Settings, name: str | None) -> None:
    """List how deltas and shared parts can be made, or print one recipe as a file.

    A recipe is TOML. Save one, change it, and give its path wherever a recipe's name is taken.

    Example:
      adb recipes
      adb recipes rg > mine.toml
      adb ingest notes --recipe mine.toml
    """
    from adapterdb.training.presets import preset_names, preset_path, read_preset

    if name is not None:
        data = read_preset(name)
        if settings.json:
            print_json(data)
        else:
            click.echo(preset_path(name).read_text(encoding="utf-8"), nl=False)
        return
    rows = [read_preset(known) for known in preset_names()]
    if settings.json:
        print_json(rows)
        return
    print_table(
        ("recipe", "for", "what it does"),
        [(row["name"], row["kind"], row.get("about", "")) for row in rows],
    )
