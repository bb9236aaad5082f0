"""``adb init``: make a home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterdb.cli.output import print_json, print_text
from adapterdb.cli.settings import HOME, Settings, shared

if TYPE_CHECKING:
    from adapterdb.config import Config

_LORA = ("rank", "alpha", "targets", "layers")


@click.command()
@click.argument("folder", metavar="[DIR]", required=False)
@click.option(
    "--base", metavar="MODEL", help="Base model: mini, a folder, or a Hub id. Default: mini."
)
@click.option("--embedder", metavar="MODEL", help="Embedding model: minilm, a folder, or a Hub id.")
@click.option(
    "--recipe", metavar="NAME|FILE", help="How deltas are made: auto, or see 'adb recipes'."
)
@click.option("--rank", type=int, metavar="N", help="LoRA rank.")
@click.option("--alpha", type=float, metavar="X", help="LoRA alpha.")
@click.option("--targets", metavar="A,B", help="mlp, attn, all, or endings of module names.")
@click.option("--layers", metavar="RANGE", help="all, upper-half, upper-N or A-B.")
@click.option(
    "--delta-dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "int8"]),
    help="How deltas are stored. Default: bfloat16.",
)
@click.option("--chunk-tokens", type=int, metavar="N", help="Tokens of a passage. Default: 160.")
@click.option("--overlap", type=int, metavar="N", help="Tokens two passages share. Default: 0.")
@click.option("--allow-download", is_flag=True, help="Fetch models that are not on this disk.")
@shared
def init(settings: Settings, /, folder: str | None, allow_download: bool, **given: Any) -> None:
    """Make a home for documents and deltas.

    DIR is the home folder; without it, the one --database names, or ./.adapterdb.

    Example:
      adb init
      adb init notes --base ./models/llama --recipe rg --rank 4
    """
    from adapterdb.database import AdapterDB

    if folder and settings.database:
        raise click.UsageError("give the home as DIR or as --database, not both")
    with AdapterDB.create(
        Path(folder or settings.database or HOME),
        _config({name: value for name, value in given.items() if value is not None}),
        catalog=settings.catalog,
        options=settings.load_options(allow_download=allow_download),
    ) as db:
        if settings.json:
            path = str(db.path.resolve())
            print_json({"path": path, "config": db.config, "fingerprints": db.fingerprints})
            return
        c = db.config
        print_text(f"made {db.path}: base {c.base}, embedder {c.embedder}, recipe {c.recipe}")
        print_text(f"fingerprint of the base model: {db.fingerprints['base_model']}")


def _config(given: dict[str, Any]) -> Config:
    """The config of the options that were given; the rest keeps its default."""
    from adapterdb.config import ChunkConfig, Config

    lora = {name: given.pop(name) for name in _LORA if name in given}
    chunk = {
        name: given.pop(option)
        for option, name in (("chunk_tokens", "tokens"), ("overlap", "overlap"))
        if option in given
    }
    config = replace(Config(**given), chunk=ChunkConfig(**chunk))
    if "targets" in lora:
        lora["targets"] = tuple(part.strip() for part in lora["targets"].split(","))
    return config.with_lora(**lora) if lora else config
