"""Which generator a person names: ``local``, a URL, or a journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapterdb.base_model import BaseModel
from adapterdb.errors import InvalidInput
from adapterdb.ingest.augment.asking import AskingModel
from adapterdb.ingest.augment.endpoint import Endpoint
from adapterdb.ingest.augment.generator import TextGenerator
from adapterdb.ingest.augment.journal import Recorded
from adapterdb.ingest.augment.local import LocalGenerator

LOCAL = "local"


def open_generator(
    named: str,
    load: Callable[[], BaseModel],
    *,
    model: str = "",
    key: str = "",
    threads: int = 8,
    timeout_s: float = 120.0,
) -> TextGenerator:
    """The generator called ``named``.

    Args:
        named: ``local``, the base URL of an OpenAI-compatible endpoint, or a journal's path.
        load: gives the base model, for ``local``; one with a prompt for asking only asks.
        model: its name at the endpoint; key, threads, timeout_s: as `Endpoint`'s.

    Raises:
        InvalidInput: if it is none of these.
    """
    if named == LOCAL:
        base = load()
        return AskingModel(base) if base.encoder.prompts.ask else LocalGenerator(base)
    if "://" in named:
        return Endpoint(named, model, key, threads=threads, timeout_s=timeout_s)
    if Path(named).is_file():
        return Recorded(Path(named))
    raise InvalidInput(
        f"--generator {named!r} is not 'local', no URL, and no file",
        hint="URLs begin with http:// or https://; a file is the journal of an earlier run",
    )
