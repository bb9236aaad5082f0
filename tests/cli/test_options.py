"""Values people write in options."""

from __future__ import annotations

import pytest

from adapterdb.cli.options import number, parse_adapters, parse_tags
from adapterdb.errors import InvalidInput


def test_tags_become_fields() -> None:
    """Bare words gather under ``tag``, numbers become numbers, repeats become lists."""
    assert parse_tags(("law", "year=2024", "x=1.5", "who=Ada", "who=Bo", "tag=tax", "eq=a=b")) == {
        "tag": ["law", "tax"],
        "year": 2024,
        "x": 1.5,
        "who": ["Ada", "Bo"],
        "eq": "a=b",
    }


@pytest.mark.parametrize("tag", ["", "=", "=x", "key="])
def test_half_a_tag_is_refused(tag: str) -> None:
    """A tag needs a value, and a name where it has a sign."""
    with pytest.raises(InvalidInput, match="--tag"):
        parse_tags((tag,))


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("-7", -7), ("2.5", 2.5), ("1e3", 1000.0), ("nan", "nan"), ("1_0", "1_0"),
     ("9" * 30, "9" * 30), ("٣", "٣"), ("1e", "1e")],
)  # fmt: skip
def test_numbers(text: str, value: str | int | float) -> None:
    """What is not plainly a number stays text."""
    assert number(text) == value
    assert type(number(text)) is type(value)


def test_adapters_and_weights() -> None:
    """A name may hold the sign itself; the weight is what follows the last one."""
    assert parse_adapters(("a.md", "b=0.5", "c=d", "e=f=-2")) == {
        "a.md": 1.0,
        "b": 0.5,
        "c=d": 1.0,
        "e=f": -2.0,
    }
    assert parse_adapters(()) is None
