"""``adb merge``: several deltas put together as one stored delta."""

from __future__ import annotations

from typing import Any

import click

from adapterdb.answers import STORABLE, Dials, Weighting
from adapterdb.cli.options import NAMESPACE, TAG, TITLE, parse_adapters, parse_tags, read_text
from adapterdb.cli.output import print_json, print_text
from adapterdb.cli.settings import Settings, shared


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--into", required=True, metavar="NAME", help="Of the document it stands for.")
@click.option(
    "--compose",
    type=click.Choice(STORABLE),
    default="linear",
    help="How they are put together. Default: linear.",
)
@click.option(
    "--weight",
    "each",
    multiple=True,
    metavar="NAME=W",
    help="Weight of one of them; 1 for those without. Repeatable.",
)
@click.option(
    "--weights",
    type=click.Choice(("uniform", "sum")),
    help="Without --weight: 1 / n, or 1 each. Default: as the composition is defined.",
)
@click.option("--strength", type=float, default=1.0, metavar="G", help="Multiplies every weight.")
@click.option("--density", type=float, metavar="X", help="Share of entries that are kept, up to 1.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of what is dropped at random.")
@click.option(
    "--text",
    "file",
    metavar="FILE",
    help="What it knows: it is found by this text. - is standard input."
    " Default: a line that names what was merged.",
)
@TITLE
@NAMESPACE
@TAG
@shared
def merge(
    settings: Settings,
    /,
    names: tuple[str, ...],
    each: tuple[str, ...],
    weights: Weighting | None,
    density: float | None,
    seed: int,
    file: str | None,
    tags: tuple[str, ...],
    **how: Any,
) -> None:
    """Put deltas together and store them as one, under a name of its own.

    NAME is a document or the id of a delta, the most important first. What comes of it is asked
    like any other delta, and is deleted or forgotten with any of those it was made from.

    Example:
      adb merge harbour.md railway.md --into coast --compose ties
      adb merge a.md b.md --into both --compose svd --weight a.md=0.7 --weight b.md=0.3
    """
    text, metadata = "" if file is None else read_text(file), parse_tags(tags)
    chosen, dials = parse_adapters(each) or weights, Dials(density=density, seed=seed)
    with settings.open() as db:
        delta = db.merge(names, weights=chosen, dials=dials, text=text, metadata=metadata, **how)
    if settings.json:
        print_json(delta)
        return
    print_text(f"stored delta {delta.id} as {delta.document}@{delta.version}")
