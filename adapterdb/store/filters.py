"""Conditions on documents (``--where``): from text to a small tree that is safe to compile.

    year >= 2020 AND tag IN ('law', 'tax') AND NOT source LIKE '%draft%'

Names are ``name``, ``title``, ``source``, ``version``, ``created_at`` and any metadata key. sqlglot
only parses; what it finds is copied, piece by piece, into the classes below, and whatever has no
class is refused. Nothing of the text ever becomes SQL: values reach the database as bound
parameters, names as values of a column.

A condition on a metadata key looks at every value under it (``tag`` has many): ``=`` holds if one
value is equal, ``!=`` if there is a value and none is equal. ``NOT`` is the plain opposite. Numbers
are compared as numbers, strings as strings, with ``LIKE`` minding upper and lower case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterdb.errors import BadFilter

if TYPE_CHECKING:
    from sqlglot import exp

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Value = str | int | float | bool

COLUMNS: tuple[str, ...] = ("name", "title", "source", "version", "created_at")
MAX_CHARS = 4096
MAX_TERMS = 64
MAX_DEPTH = 8
MAX_ITEMS = 1000
ALLOWED = (
    "allowed are names, = != < <= > >= IN, LIKE with % at the ends, IS NULL, AND, OR, NOT, and"
    " strings in single quotes, numbers, true, false"
)


@dataclass(frozen=True)
class Compare:
    """``name <operator> value``."""

    name: str
    operator: Operator
    value: Value


@dataclass(frozen=True)
class OneOf:
    """``name IN (values)``."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Like:
    """``name LIKE pattern``: ``text`` found at the start, at the end, anywhere or as a whole."""

    name: str
    text: str
    open_start: bool
    open_end: bool


@dataclass(frozen=True)
class Absent:
    """``name IS NULL``: no value under this name."""

    name: str


@dataclass(frozen=True)
class Not:
    """The opposite of ``part``."""

    part: Filter


@dataclass(frozen=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Filter, ...]


Filter = Compare | OneOf | Like | Absent | Not | AllOf | AnyOf
Where = str | Filter | None


def as_filter(where: Where) -> Filter | None:
    """A filter from what callers give: text, a filter, or nothing.

    Raises:
        BadFilter: if the text, or a filter made by hand, is not within what is allowed.
    """
    if isinstance(where, str):
        return parse_filter(where)
    if where is not None:
        _check_tree(where)
    return where


def _check_tree(tree: Filter) -> None:
    """Hold a filter made by hand to the limits of one that was parsed."""
    waiting: list[tuple[object, int]] = [(tree, 1)]
    terms = items = 0
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise BadFilter(f"the filter is nested deeper than {MAX_DEPTH}")
        match node:
            case AllOf(parts) | AnyOf(parts):
                waiting += [(part, depth + 1) for part in parts]
                values: tuple[Value, ...] = ()
            case Not(part):
                waiting.append((part, depth + 1))
                values = ()
            case Compare(name, _, value):
                values = (value,)
                _typed(name, value, value)
            case OneOf(name, values):
                for value in values:
                    _typed(name, value, value)
            case Like(_, text):
                values = (text,)
            case Absent():
                values = ()
            case _:
                raise BadFilter(f"{_shown(node)} is no filter", hint=ALLOWED)
        terms, items = terms + 1, items + len(values)
        # connectors are counted too: a tree of them alone must end somewhere
        if terms > 4 * MAX_TERMS or items > MAX_ITEMS:
            raise BadFilter(f"the filter has more than {MAX_TERMS} terms or {MAX_ITEMS} values")
        if not all(map(_is_value, values)):
            raise BadFilter("the filter compares with something else than text or a finite number")


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
    if isinstance(value, int):
        return abs(value) <= 2**53
    return isinstance(value, float) and math.isfinite(value)


def parse_filter(text: str) -> Filter:
    """The condition that ``text`` states.

    Raises:
        BadFilter: naming the piece that can't be understood or isn't allowed.
    """
    import sqlglot  # half a second, for the few commands that filter
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if not isinstance(text, str) or not text.strip():
        raise BadFilter("the filter is empty", hint=ALLOWED)
    if len(text) > MAX_CHARS:
        raise BadFilter(f"the filter has {len(text)} characters; at most {MAX_CHARS} are allowed")
    if "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise BadFilter("the filter contains a NUL or a lone surrogate")
    try:
        tree: Any = sqlglot.parse_one(text, into=exp.Condition)
        return _Reader().read(tree, 1)
    except RecursionError as error:
        raise BadFilter(f"the filter is nested deeper than {MAX_DEPTH}") from error
    except SqlglotError as error:
        raise BadFilter(f"the filter {_short(text)} can't be parsed", hint=ALLOWED) from error


class _Reader:
    """Copies what is allowed out of a parsed tree, counting as it goes."""

    def __init__(self) -> None:
        self.terms = 0
        self.items = 0

    def read(self, node: exp.Expression, depth: int) -> Filter:
        """The part of the condition under ``node``."""
        from sqlglot import exp

        if depth > MAX_DEPTH:
            raise BadFilter(f"the filter is nested deeper than {MAX_DEPTH}")
        match node:
            case exp.Paren():
                _only(node, "this")
                return self.read(node.this, depth + 1)
            case exp.And():
                return AllOf(self._parts(node, exp.And, depth))
            case exp.Or():
                return AnyOf(self._parts(node, exp.Or, depth))
            case exp.Not():
                _only(node, "this")
                return Not(self.read(node.this, depth + 1))
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise BadFilter(f"the filter has more than {MAX_TERMS} terms")
        return self._term(node)

    def _parts(
        self, node: exp.Expression, kind: type[exp.Expression], depth: int
    ) -> tuple[Filter, ...]:
        """The members of a chain of the same connector, left to right."""
        members: list[exp.Expression] = []
        while isinstance(node, kind):  # chains lean to the left
            _only(node, "this", "expression")
            members.append(node.expression)
            node = node.this
        members.append(node)
        return tuple(self.read(member, depth + 1) for member in reversed(members))

    def _term(self, node: exp.Expression) -> Filter:
        from sqlglot import exp

        operators: dict[type[exp.Expression], Operator] = {
            exp.EQ: "=",
            exp.NEQ: "!=",
            exp.LT: "<",
            exp.LTE: "<=",
            exp.GT: ">",
            exp.GTE: ">=",
        }
        if type(node) in operators:
            _only(node, "this", "expression")
            value = self._value(node.expression)
            name = _name(node.this)
            _typed(name, value, node)
            return Compare(name, operators[type(node)], value)
        if isinstance(node, exp.In):
            _only(node, "this", "expressions")
            name = _name(node.this)
            values = tuple(self._value(item) for item in node.expressions)
            if not values:
                raise BadFilter(f"{_shown(node)} has an empty list", hint=ALLOWED)
            for value in values:
                _typed(name, value, node)
            return OneOf(name, values)
        if type(node) is exp.Like:
            _only(node, "this", "expression", "negate")
            like = _like(_name(node.this), self._value(node.expression), node)
            return Not(like) if node.args.get("negate") else like
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            _only(node, "this", "expression")
            return Absent(_name(node.this))
        raise _refused(node)

    def _value(self, node: exp.Expression) -> Value:
        """A literal: string, number, true or false."""
        from sqlglot import exp

        self.items += 1
        if self.items > MAX_ITEMS:
            raise BadFilter(f"the filter has more than {MAX_ITEMS} values")
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        negative = isinstance(node, exp.Neg)
        literal = node.this if negative else node
        if not isinstance(literal, exp.Literal) or (negative and literal.is_string):
            raise _refused(node)
        if literal.is_string:
            return str(literal.this)
        number = _number(str(literal.this), node)
        return -number if negative else number


def _number(text: str, node: exp.Expression) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise _refused(node) from None
    if not math.isfinite(value):
        raise BadFilter(f"the number {_short(text)} in the filter is too large")
    # beyond 2^53 a float no longer tells neighbours apart, and SQL integers end at 2^63
    return int(text) if text.isdigit() and value < 2**53 else value


def _name(node: object) -> str:
    from sqlglot import exp

    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        raise _refused(node)
    _only(node, "this")
    name = str(node.this.this)
    if name.lower() in COLUMNS:
        return name.lower()
    return "tag" if name == "tags" else name


def _typed(name: str, value: Value, node: object) -> None:
    """Refuse a value of another kind than the column ``name`` holds."""
    if name not in COLUMNS:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "version" and not number:
        raise BadFilter(f"{_shown(node)}: version is compared with a number")
    if name != "version" and not isinstance(value, str):
        raise BadFilter(f"{_shown(node)}: {name} is compared with a string in single quotes")


def _like(name: str, pattern: Value, node: exp.Expression) -> Like:
    if not isinstance(pattern, str) or name == "version":
        raise BadFilter(f"{_shown(node)}: LIKE compares a text with a string", hint=ALLOWED)
    open_start, open_end = pattern.startswith("%"), pattern.endswith("%") and len(pattern) > 1
    text = pattern[open_start : len(pattern) - open_end]
    if "%" in text:
        raise BadFilter(f"{_shown(node)}: % is allowed at the start and at the end only")
    return Like(name, text, open_start, open_end)


def _only(node: exp.Expression, *allowed: str) -> None:
    """Refuse a piece that carries anything besides ``allowed``."""
    if any(value for key, value in node.args.items() if key not in allowed):
        raise _refused(node)


def _refused(node: object) -> BadFilter:
    return BadFilter(f"{_shown(node)} is not allowed in a filter", hint=ALLOWED)


def _shown(node: object) -> str:
    """The piece as text, cut short, for a message."""
    from sqlglot import exp

    return _short(node.sql() if isinstance(node, exp.Expression) else str(node))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
