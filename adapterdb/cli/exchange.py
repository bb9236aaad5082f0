"""``adb export`` and ``adb import``: deltas as PEFT folders."""

from __future__ import annotations

from pathlib import Path

import click

from adapterdb.answers import STORABLE, Composition
from adapterdb.cli.options import NAMESPACE, TAG, TITLE, parse_adapters, parse_tags, read_text
from adapterdb.cli.output import print_json, print_text
from adapterdb.cli.settings import Settings, shared


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR")
@click.option(
    "--merged", is_flag=True, help="Write one whole model instead, with the deltas in its weights."
)
@click.option(
    "--compose", type=click.Choice(STORABLE), default="cat",
    help="With --merged: how they are put together. Default: cat, their sum.",
)  # fmt: skip
@NAMESPACE
@shared
def export(
    settings: Settings,
    names: tuple[str, ...],
    folder: str,
    merged: bool,
    compose: Composition,
    namespace: str,
) -> None:
    """Write deltas as PEFT folders, one for each delta, into DIR.

    NAME is a document or the id of a delta. Any program that reads PEFT adapters can load them.
    With --merged, NAME may be NAME=W (weight 1 if not given), and DIR becomes the folder of a model
    in float32 that programs load like the base model, and that 'adb init --base DIR' takes.

    Example:
      adb export railway.md adapters/
      adb export railway.md=0.5 harbour.md=0.5 coast-model/ --merged
    """
    with settings.open_to_ask() as db:
        if merged:
            chosen = parse_adapters(names) or {}
            written = [db.merged_model(chosen, folder, compose=compose, namespace=namespace)]
        else:
            written = db.export(names, folder, namespace=namespace)
    if settings.json:
        print_json([str(path) for path in written])
        return
    print_text("\n".join(map(str, written)))


@click.command("import")
@click.argument("folder", metavar="DIR")
@click.option(
    "--text",
    "file",
    required=True,
    metavar="FILE",
    help="What the LoRA knows: it is found by this text. - is standard input.",
)
@click.option("--name", metavar="NAME", help="Of the document it stands for. Default: DIR's name.")
@TITLE
@NAMESPACE
@TAG
@click.option(
    "--made-from", "parents", multiple=True, metavar="NAME",
    help="Document or delta it was made from: deleted or forgotten with it. Repeatable.",
)  # fmt: skip
@shared
def import_(
    settings: Settings,
    folder: str,
    file: str,
    name: str | None,
    title: str,
    namespace: str,
    tags: tuple[str, ...],
    parents: tuple[str, ...],
) -> None:
    """Store a LoRA of your own, from a PEFT folder, as the delta of a text.

    Example:
      adb import adapters/mine --text about.txt --name mine
    """
    text, metadata = read_text(file), parse_tags(tags)
    with settings.open() as db:
        delta = db.put(
            folder, text=text, name=name or Path(folder).resolve().name, title=title,
            namespace=namespace, metadata=metadata, parents=parents,
        )  # fmt: skip
    if settings.json:
        print_json(delta)
        return
    print_text(f"stored delta {delta.id} as {delta.document}@{delta.version}")
