"""Filters compiled to SQLAlchemy conditions on a document; every value is a bound parameter."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Double, and_, cast, exists, false, not_, or_

from adapterdb.store.filters import (
    COLUMNS,
    Absent,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    Like,
    Not,
    OneOf,
    Operator,
    Value,
)
from adapterdb.store.tables import DocumentTable, FieldTable

TESTS: dict[Operator, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def condition(filter: Filter) -> ColumnElement[bool]:
    """The SQL condition on ``DocumentTable`` that says what ``filter`` says."""
    match filter:
        case AllOf(parts):
            return and_(*map(condition, parts))
        case AnyOf(parts):
            return or_(*map(condition, parts))
        case Not(part):
            return not_(condition(part))
        case Absent(name):
            return _column(name) == "" if name in ("title", "source") else _absent(name)
        case Like(name):
            return _like(filter)
        case OneOf(name, values):
            return _one_of(name, values)
        case Compare(name, test, value):
            return _compare(name, test, value)


def _compare(name: str, test: Operator, value: Value) -> ColumnElement[bool]:
    if name in COLUMNS:
        return _test(_column(name), test, value)
    if test == "!=":
        return and_(_has(name), not_(_has(name, _field_test("=", value))))
    return _has(name, _field_test(test, value))


def _field_test(test: Operator, value: Value) -> ColumnElement[bool]:
    if isinstance(value, bool):
        return _test(FieldTable.text, test, str(value).lower())
    column = FieldTable.text if isinstance(value, str) else FieldTable.number
    return _test(column, test, value)


def _test(column: Any, test: Operator, value: Value) -> ColumnElement[bool]:
    found: ColumnElement[bool] = TESTS[test](column, value)
    return found


def _one_of(name: str, values: Sequence[Value]) -> ColumnElement[bool]:
    if name in COLUMNS:
        found: ColumnElement[bool] = _column(name).in_(values)
        return found
    texts = [str(v).lower() if isinstance(v, bool) else v for v in values]
    numbers = [v for v in texts if not isinstance(v, str)]
    strings = [v for v in texts if isinstance(v, str)]
    return _has(name, or_(FieldTable.text.in_(strings), FieldTable.number.in_(numbers)))


def _like(filter: Like) -> ColumnElement[bool]:
    own = filter.name in COLUMNS
    column = _column(filter.name) if own else FieldTable.text
    text = filter.text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    pattern = "%" * filter.open_start + text + "%" * filter.open_end
    test: ColumnElement[bool] = column.like(pattern, escape="!")
    return test if own else _has(filter.name, test)


def _absent(name: str) -> ColumnElement[bool]:
    return false() if name in COLUMNS else not_(_has(name))


def _has(name: str, *tests: ColumnElement[bool]) -> ColumnElement[bool]:
    """The document has a value under the metadata key ``name`` that passes ``tests``."""
    return exists().where(
        FieldTable.document_id == DocumentTable.id, FieldTable.key == name, *tests
    )


def _column(name: str) -> Any:
    if name == "version":  # PostgreSQL would round 1.5 to compare it with an integer
        return cast(DocumentTable.version, Double)
    return getattr(DocumentTable, name)
