"""Filters and questions from strangers: injections, limits, odd characters; and what they may mean.

``meets`` is a second reading of a parsed filter, in plain Python over plain metadata, to compare
with what SQL answers.
"""

# ruff: noqa: E501 - tables of cases are easier to read in long lines

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from adapterdb.store.filters import Absent, AllOf, AnyOf, Compare, Filter, Like, Not, OneOf

COLUMNS = ("name", "title", "source", "version", "created_at")

VALUES = (
    "'", "''", "' OR '1'='1", "' OR 1=1 --", "'; DROP TABLE document; --", "x' UNION SELECT text FROM passage --",
    "') OR ('1'='1", "\\' OR 1=1 --", "\\", "\\\\", "%", "_", "!%", "!", "%%", "a%", "\u2019 OR 1=1", "\uff07 OR 1=1",
    '" OR ""="', "/* x */", "--", "#", ";", "?", ":x", "$1", "%s", "{0}", "${x}", "NULL", "true", "inf", "nan", "1e309",
    "1_000", "\u0661", " 2021 ", "2021\n", "0x10", "caf\u00e9", "cafe\u0301", "\u202e", "\U0001f600", "a\tb", "a\nb",
    "tenant-b", "b" * 3000, "'" * 999, "\x1b[31m", "\x7f", "\u0000", "\ud800", "",
)  # fmt: skip
NAMES = (
    "year", "tag", "tags", "name", "NAME", "title", "source", "version", "created_at", "id", "text", "namespace",
    "state", "seq", "rowid", "document.id", "key", "a.b", "x y", 'x"y', "x'y", "x`y", "[x]", "\u00fc", "", "%", "1",
    "document_field.text", "sqlite_master", "SELECT", "true", "null", "\u0000", "tag) OR (1=1", "case",
)  # fmt: skip
RAW = (
    "1=1", "year = 2021 OR 1=1", "year = 2021 OR true", "true", "NOT false", "year", "year = year", "year = lang",
    "namespace = 'b'", "namespace = 'b' OR year IS NULL", "document.namespace = 'b'", "NOT namespace = 'a'",
    "year = (SELECT 1)", "EXISTS (SELECT 1)", "year IN (SELECT id FROM document)", "year = ANY(ARRAY[1])",
    "(SELECT count(*) FROM document) > 0", "year = 1; DELETE FROM document", "year = 1; ", "; year = 1",
    "year = 1 UNION ALL SELECT * FROM passage", "year = 1 -- AND 1=0", "year = 1 /* ", "/* */ year = 2021", "year/**/=/**/2021",
    "/*+ hint */ year = 2021", "year = 2021 # x", "load_extension('x.so') = 1", "lower(lang) = 'en'", "length(text) > 0",
    "CAST(year AS TEXT) = '2021'", "year::text = '2021'", "TRY_CAST(year AS INT) = 1", "year COLLATE nocase = 'x'",
    "lang GLOB '*'", "lang REGEXP '(a+)+$'", "lang ~ '(a+)+$'", "lang RLIKE 'x'", "lang SIMILAR TO 'x'", "lang ILIKE '%'",
    "lang LIKE '%' ESCAPE '%'", "lang LIKE ANY ('%')", "lang LIKE lang", "lang LIKE 1", "lang LIKE ''", "lang LIKE '%'",
    "lang LIKE '_'", "lang LIKE '\\%'", "name LIKE '%.md'", "lang NOT LIKE 'e%'", "NOT lang LIKE '%n'", "lang LIKE '%%%'",
    "year BETWEEN 1 AND 9999", "year IS NOT NULL", "year IS NULL", "year IS NOT DISTINCT FROM 2021", "year <=> 2021",
    "year = NULL", "year != NULL", "year IS TRUE", "year == 2021", "year <> 2021", "year !< 2021", "!(year = 2021)",
    "year = 0x7e5", "year = 2021.0", "year = 2.021e3", "year = -2021", "year = - - 2021", "year = +2021", "year = 1/0",
    "year = 2020 + 1", "year = 1e308", "year < 1e308", "year > -1e308", "year = 1e309", "year = 9223372036854775808",
    "year = 99999999999999999999999999", "year < 18446744073709551616", "year = '2021'", "year > '2020'", "year < 'z'",
    "year IN (2021, '2021', true)", "year IN (2019, 2021) AND NOT tag = 'law'", "year NOT IN (2021)", "year IN 2021",
    "year IN (2021,)", "(year, tag) IN ((2021, 'law'))", "year IN UNNEST([2021])", "tag CONTAINS 'law'", "'law' IN (tag)",
    "'x' = tag", "2021 = year", "tag = 'law' 'tax'", "tag = N'law'", "tag = E'law'", "tag = X'6c6177'", "tag = B'1'",
    "tag = U&'law'", "tag = $$law$$", "tag = r'law'", "tag = \"law\"", "tag = `law`", "tag = [law]", "`tag` = 'law'",
    "[tag] = 'law'", "DATE '2021-01-01' < created_at", "created_at > '2000'", "created_at < CURRENT_TIMESTAMP",
    "INTERVAL '1' DAY = 1", "CASE WHEN 1=1 THEN 1 END = 1", "IF(1=1, 1, 0) = 1", "year = @@version", "year = @x", "year = :x",
    "year = ?", "year = $1", "year = {{x}}", "year = %s", "x.y.z = 1", "*", "year = *", "COUNT(*) = 1", "year[0] = 1",
    "year->>'x' = 1", "meta:x = 1", "year.x = 1", "SELECT 1", "DROP TABLE document", "PRAGMA secure_delete=OFF", "BEGIN",
    "ATTACH DATABASE '/tmp/x' AS x", "VALUES (1)", "WITH x AS (SELECT 1) SELECT 1", "year = 1 LIMIT 1", "year = 1 ORDER BY 1",
    "year = 1 GROUP BY year", "year AND tag", "year = 2021 XOR year = 1", "year = 2021 && tag = 'law'", "a || b = 'x'",
    "tag = 'law' AS x", "x => 1", "LAMBDA x: 1", "version = 1", "version < 1.5", "version = '1'", "version = true",
    "version IN (1, 2.5)", "version > -1", "version < 1e300", "title = 3", "title IS NULL", "name != ''", "name > 'a'",
    "NOT NOT year = 2021", "NOT (year = 2021 AND NOT (tag = 'law' OR draft = true))", "draft", "draft = 'true'",
    "draft != true", "draft > false", "score >= 0.5", "score = .5", "score = 5e-1", "\u00fc = 'x'", "\"\u00fc\" = 'x'",
    "", " ", "\t", "\n", "(", ")", "()", "'", '"', "`", "--", "/*", "\\", "\ufeffyear = 2021", "year\u00a0=\u00a02021",
    "year \uff1d 2021", "\u0443ear = 2021", "\0", "year = 2021\0", "\ud800", "year = \u0662\u0660\u0662\u0661",
)  # fmt: skip


def payloads() -> list[str]:
    """Some 400 filters, some of them good."""
    made = list(RAW)
    for value in VALUES:
        quoted = value.replace("'", "''")
        made += [f"lang = '{value}'", f"lang = '{quoted}'", f"tag IN ('{quoted}', 'law')"]
        made.append(f"name LIKE '%{quoted}%'")
    for name in NAMES:
        made += [f"{name} = 'law'", '"' + name.replace('"', '""') + "\" = 'law'"]
    made += [
        "(" * depth + "year = 2021" + ")" * depth for depth in (3, 7, 8, 100, 2000, 20_000, 200_000)
    ]
    made += ["NOT " * depth + "year = 2021" for depth in (2, 7, 9, 1000, 20_000)]
    made += [" OR ".join(["year = 2021"] * count) for count in (2, 64, 65, 300, 20_000)]
    made += [" AND ".join(["year > 1"] * count) for count in (64, 65, 20_000)]
    made += [f"year IN ({','.join(['2021'] * count)})" for count in (1, 700, 1001, 100_000)]
    made += ["- " * 1500 + "1 = year", "year = " + "- " * 1500 + "1", "year = " + "9" * 3000]
    made += [
        "a" * 4000 + " = 1",
        "'" * 4000,
        '"' * 4001,
        "((" * 1999,
        "year = 1 " * 400,
        "x." * 1900,
    ]
    made += ["CASE WHEN " * 300, "[" * 4000, "{" * 4000, "year IN (" * 400, "'" + "\\'" * 1900]
    return made


def random_filter(source: random.Random) -> str:
    """A filter put together of pieces, right or wrong."""
    pieces = []
    for _ in range(source.randrange(1, 7)):
        name = source.choice((*NAMES[:9], "lang", "draft", "score", source.choice(NAMES)))
        test = source.choice(("=", "!=", "<", "<=", ">", ">=", "LIKE", "IN", "IS"))
        value = source.choice(
            ("2021", "2020.5", "true", "0.5", "-1", "'law'", "'2021'", "'e%'", "'%a%'", "'en'")
        )
        term = f"{name} {test} {value}"
        if test == "IN":
            term = f"{name} {source.choice(('', 'NOT '))}IN ({value}, {value})"
        if test == "IS":
            term = f"{name} IS {source.choice(('', 'NOT '))}NULL"
        pieces.append(source.choice(("", "", "NOT ")) + source.choice((term, f"({term})")))
    return source.choice((" AND ", " OR ")).join(pieces)


def random_question(source: random.Random) -> str:
    """Words, operators of search engines, quotes and characters of every kind."""
    kind = source.randrange(4)
    if kind == 0:
        return "".join(chr(source.randrange(0x110000)) for _ in range(source.randrange(200)))
    words = ("words", "of", "AND", "OR", "NOT", "NEAR(", ")", '"', "*", "^", "text:", "-", "+", "~2", "\\", "'", ";",
             "\u202e", "\x1b[2J", "{", "}", "[1 TO 2]", "a", "\u00e9", "\u6f22\u5b57", "%", "\n", "canary")  # fmt: skip
    if kind == 1:
        return "".join(source.choices(words, k=source.randrange(60)))
    if kind == 2:
        return " ".join(source.choices(words, k=source.randrange(400)))
    return source.choice(words) * source.choice((0, 1, 1000, 8000, 100_000))


def meets(filter: Filter, columns: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether a document meets ``filter``, as the documentation of filters says."""
    match filter:
        case AllOf(parts):
            return all(meets(part, columns, metadata) for part in parts)
        case AnyOf(parts):
            return any(meets(part, columns, metadata) for part in parts)
        case Not(part):
            return not meets(part, columns, metadata)
    values = _values(filter.name, columns, metadata)
    match filter:
        case Absent(name):
            return not values or (name in ("title", "source") and values == [""])
        case Like(_, text, open_start, open_end):
            return any(_like(_text(value), text, open_start, open_end) for value in values)
        case OneOf(_, wanted):
            return any(_test(value, "=", want) for value in values for want in wanted)
        case Compare(_, "!=", wanted):
            return bool(values) and not any(_test(value, "=", wanted) for value in values)
        case Compare(_, test, wanted):
            return any(_test(value, test, wanted) for value in values)
    raise AssertionError(filter)


def _values(name: str, columns: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Any]:
    if name in COLUMNS:
        return [columns[name]]
    found = metadata.get(name, [])
    return found if isinstance(found, list) else [found]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _like(value: str, text: str, open_start: bool, open_end: bool) -> bool:
    if open_start and open_end:
        return text in value
    if open_start:
        return value.endswith(text)
    return value.startswith(text) if open_end else value == text


def _test(value: Any, test: str, wanted: Any) -> bool:
    """One value against one wanted: as numbers if that is one, else as texts."""
    if isinstance(wanted, bool | str):
        left, right = _text(value), _text(wanted)
    else:
        try:
            left, right = float(value), float(wanted)
        except ValueError:
            return False
    return {
        "=": left == right, "!=": left != right, "<": left < right,
        "<=": left <= right, ">": left > right, ">=": left >= right,
    }[test]  # fmt: skip
