"""The YAML block at the head of a Markdown file, and which of its fields become metadata.

Plain words stay words: YAML 1.1 would read ``no`` as false and ``12:30`` as 750, so only the
readings of YAML 1.2's core schema and dates are on. A block that is not a YAML mapping is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from adapterdb.records import MetadataValue

MAX_BLOCK_CHARS = 16 * 2**10  # PyYAML is slow on nested brackets: half a second for this many
MAX_INT = 2**63 - 1

_BLOCK = re.compile(
    r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)


class FrontMatter(NamedTuple):
    """The fields of the block and the text after it."""

    fields: Mapping[str, Any]
    text: str


def split_front_matter(text: str) -> FrontMatter:
    """``text`` without its front matter, and the fields of that; no fields where there is none."""
    block = _BLOCK.match(text[:MAX_BLOCK_CHARS])
    if block is None:
        return FrontMatter({}, text)
    try:
        fields = yaml.load(block[1], Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: the 31st of February
        return FrontMatter({}, text)
    if not isinstance(fields, dict):
        return FrontMatter({}, text)
    return FrontMatter({k: v for k, v in fields.items() if isinstance(k, str)}, text[block.end() :])


_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z?)?$"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader that knows fewer kinds of scalar; no ``<<``, whose expansion can explode."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol

    def compose_scalar_node(self, anchor: Any) -> Any:
        """A scalar without a tag: ``!!bool x`` makes PyYAML fail with whatever it runs into."""
        event = self.peek_event()
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise yaml.composer.ComposerError(None, None, "a tag", event.start_mark)
        return super().compose_scalar_node(anchor)


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[1-9][0-9]{0,17}$|0$", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)$", list("-+.0123456789")),
    ("timestamp", _DATE, list("0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def to_metadata(fields: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """The fields ``--where`` can use: scalars and lists of strings; the others are left out.

    ``tag`` and ``tags``, a list or words between commas, become ``tag``, a list of strings.
    """
    metadata: dict[str, MetadataValue] = {}
    tags: list[str] = []
    for key, value in fields.items():
        if isinstance(value, date):  # a datetime is a date
            value = value.isoformat()
        if key in ("tag", "tags"):
            tags += _tags(value)
        elif is_metadata(value):
            metadata[key] = list(value) if isinstance(value, list) else value
    if tags:
        metadata["tag"] = list(dict.fromkeys(tags))
    return metadata


def is_metadata(value: object) -> bool:
    """Whether a field may have this value: both catalogs, and JSON, must be able to hold it."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | str) or (isinstance(value, int) and abs(value) <= MAX_INT)


def _tags(value: Any) -> list[str]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list):
        words = [words]
    scalars = [str(w).strip() for w in words if isinstance(w, str | int | float | date)]
    return [word for word in scalars if word]
