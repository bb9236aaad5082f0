"""Options that several commands share, and the values people write in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from adapterdb.errors import InvalidInput
from adapterdb.records import Metadata, MetadataValue

NAMESPACE = click.option(
    "--namespace", default="default", metavar="NAME", help="Part of the home. Default: default."
)
WHERE = click.option(
    "--where", metavar="SQL", help="""Only documents that meet a condition: "year >= 2020"."""
)
AS_OF = click.option(
    "--as-of",
    metavar="WHEN",
    help="What was stored then: a change number, a date, or a time in ISO form (UTC).",
)
K = click.option(
    "-k",
    "k",
    type=int,
    metavar="N",
    help="Passages to use, 1 to 100. Default: what the base model reads best.",
)
TITLE = click.option("--title", default="", metavar="TEXT", help="Shown with the text.")
TAG = click.option(
    "--tag", "tags", multiple=True, metavar="[K=]V",
    help="Add a field; a bare V is a tag. Repeatable.",
)  # fmt: skip

_CHOICE = (
    click.argument("names", metavar="NAME...", nargs=-1),
    WHERE,
    NAMESPACE,
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option("--dry-run", is_flag=True, help="Only count."),
)


def choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose documents to be taken out."""
    return reduce(lambda made, option: option(made), reversed(_CHOICE), function)


_INT = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d{1,2})?", re.ASCII)


def parse_tags(tags: tuple[str, ...]) -> Metadata:
    """Fields out of ``key=value`` and bare ``value`` (a ``tag``); numbers become numbers.

    Raises:
        InvalidInput: for an empty key or value.
    """
    fields: dict[str, MetadataValue] = {}
    for text in tags:
        key, equals, value = text.rpartition("=") if "=" not in text else text.partition("=")
        if not value or (equals and not key):
            raise InvalidInput(f"--tag {text!r} is neither VALUE nor KEY=VALUE")
        key = key or "tag"
        before = fields.get(key)
        if before is None and key != "tag":
            fields[key] = number(value)
        else:
            earlier = before if isinstance(before, list) else [] if before is None else [before]
            fields[key] = [*map(str, earlier), value]
    return fields


def number(text: str) -> str | int | float:
    """``text`` as the number it writes, or itself."""
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def parse_adapters(adapters: tuple[str, ...]) -> dict[str, float] | None:
    """Weights by name out of ``NAME`` (weight 1) and ``NAME=WEIGHT``; None if there are none."""
    weights: dict[str, float] = {}
    for text in adapters:
        name, _, weight = text.rpartition("=")
        value = number(weight)
        if name and not isinstance(value, str):
            weights[name] = float(value)
        else:
            weights[text] = 1.0  # the name itself may hold "="
    return weights or None


def read_text(file: str) -> str:
    """The text of a file or of standard input; InvalidInput if it is not UTF-8."""
    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}", code="unreadable") from error
