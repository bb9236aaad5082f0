"""Filters: what is allowed means what it says, everything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import store_making as making

from adapterdb.errors import BadFilter
from adapterdb.store import Store, parse_filter
from adapterdb.store.filters import AllOf, AnyOf, Compare, Not

DOCUMENTS = {
    "a/one.md": {"year": 2019, "tag": ["law", "tax"], "lang": "en", "draft": False},
    "a/two.md": {"year": 2021, "tag": ["law"], "lang": "en", "draft": True},
    "b/three_.md": {"year": "2021", "lang": "de", "note": "it's 50% done"},
    "b/threeX.md": {"score": 0.5, "key with space": "x"},
}

MEANINGS = {
    "year = 2021": "two three_",
    "year = '2021'": "two three_",
    "year >= 2020 AND lang = 'en'": "two",
    "year < 2020 OR lang = 'de'": "one three_",
    "tag = 'law'": "one two",
    "tags = 'tax'": "one",
    "tag != 'tax'": "two",
    "NOT tag = 'tax'": "two three_ threeX",
    "tag IN ('tax', 'x')": "one",
    "tag NOT IN ('tax')": "two three_ threeX",
    "year IN (2019, '2021')": "one two three_",
    "draft = true": "two",
    "draft = FALSE": "one",
    "year IS NULL": "threeX",
    "year IS NOT NULL": "one two three_",
    "name LIKE 'a/%'": "one two",
    "name LIKE '%three_.md'": "three_",
    "name LIKE '%E%'": "",
    "lang LIKE 'e%'": "one two",
    "note LIKE '%50%' ": "three_",
    "note = 'it''s 50% done'": "three_",
    "name LIKE '%'": "one two three_ threeX",
    "name NOT LIKE '%.md'": "",
    "\"key with space\" = 'x'": "threeX",
    "score > 0.4 AND score <= 0.5": "threeX",
    "score > -1": "threeX",
    "title = 'A/One.Md'": "one",
    "version = 1": "one two three_ threeX",
    "version > 1": "",
    "created_at > '2020-01-01'": "one two three_ threeX",
    "source IS NULL": "one two three_ threeX",
    "name IN ('a/one.md', 'nope')": "one",
    "NOT (lang = 'en' OR year IS NULL)": "three_",
}

REFUSED = [
    "",
    "   ",
    "year",
    "1 = 1",
    "true",
    "year = lang",
    "year = (SELECT 1)",
    "year IN (SELECT id FROM document)",
    "year IN ()",
    "EXISTS (SELECT 1)",
    "lower(lang) = 'en'",
    "load_extension('x') = 1",
    "document.text = 'x'",
    "year = 1; DROP TABLE document",
    "year = 1 UNION SELECT text FROM document",
    "year = 1 OR 1 = 1",
    "year BETWEEN 1 AND 2",
    "lang ILIKE 'x'",
    "lang GLOB 'x*'",
    "lang REGEXP '(a+)+$'",
    "lang LIKE 'a%b'",
    "lang LIKE 'x' ESCAPE '!'",
    "lang LIKE ANY ('x')",
    "year = ?",
    "year = :x",
    "year = @x",
    "year = NULL",
    "year IS TRUE",
    "CAST(year AS INT) = 1",
    "year::int = 1",
    "CASE WHEN true THEN year END = 1",
    "lang = 'x' COLLATE nocase",
    "title = 3",
    "version = 'one'",
    "version LIKE '1%'",
    "year = 1e999",
    "year = -'x'",
    "lang = 'open",
    "(year = 1",
    "year = 1 year = 2",
    "lang = 'a\0b'",
    "lang = '\ud800'",
    "lang = 'x" + "x" * 5000 + "'",
    "(" * 9 + "year = 1" + ")" * 9,
    "(" * 2000 + "year = 1" + ")" * 2000,
    "NOT " * 1000 + "year = 1",
    "- " * 1500 + "year = 1",
    " AND ".join(["a = 1"] * 65),
    f"year IN ({','.join('1' * 1001)})",
]

PAYLOADS = [
    "' OR '1'='1",
    "x'; DROP TABLE document; --",
    "%",
    "_",
    "\\",
    "!%",
    "') OR 1=1 --",
    "\u2019 OR 1=1",
    '" OR ""="',
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with ``DOCUMENTS``, and a foreign namespace that must never show."""
    store = making.make(tmp_path_factory.mktemp("filters"))
    for i, (name, metadata) in enumerate(DOCUMENTS.items()):
        making.add(store, name, f"words of {name}", metadata=metadata, seed=i)
    making.add(store, "a/one.md", "foreign", namespace="other", metadata={"year": 2021})
    store.apply_outbox()
    return store


def names(store: Store, where: str) -> set[str]:
    """The short names of the documents that meet ``where``."""
    return {Path(document.name).stem for document in store.documents("default", where=where)}


@pytest.mark.parametrize("where", MEANINGS)
def test_a_filter_means_what_it_says(store: Store, where: str) -> None:
    """Listing, vector search and text search agree on which documents meet a filter."""
    want = set(MEANINGS[where].split())
    assert names(store, where) == want
    hits = store.search_vectors("default", making.vector("x"), 10, where=where)
    assert {Path(hit.passage.document).stem for hit in hits} == want
    hits = store.search_text("default", "words", 10, where=where)
    assert {Path(hit.passage.document).stem for hit in hits} == want


@pytest.mark.parametrize("where", REFUSED, ids=lambda text: repr(text[:30]))
def test_anything_else_is_refused(store: Store, where: str) -> None:
    """What is not on the list raises BadFilter with a short message, whatever it is."""
    with pytest.raises(BadFilter) as caught:
        store.documents(where=where)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("payload", PAYLOADS)
def test_values_are_only_values(store: Store, payload: str) -> None:
    """A value or name made to break out of its quotes matches nothing and harms nothing."""
    quoted = payload.replace("'", "''")
    for where in (f"lang = '{quoted}'", f"tag IN ('{quoted}')", f"name = '{quoted}'"):
        assert names(store, where) == set()
    column = payload.replace('"', '""')
    assert names(store, f"\"{column}\" = 'x'") == set()
    inner = quoted.strip("%")
    want = {"three_"} if inner in ("", "_") and payload == "_" else set()
    if payload not in ("%", "!%"):
        assert names(store, f"name LIKE '%{inner}%'") == want
    assert len(store.documents("default")) == len(DOCUMENTS)


def test_an_unescaped_filter_with_a_payload_is_refused_or_false(store: Store) -> None:
    """Text pasted without quoting can never widen the answer beyond its namespace."""
    for payload in PAYLOADS:
        try:
            found = store.documents("default", where=f"lang = '{payload}'")
        except BadFilter:
            continue
        assert all(document.namespace == "default" for document in found)


def test_trees_are_plain_data() -> None:
    """Chains are flat, and a tree can be compared, so callers may build filters themselves."""
    tree = parse_filter("a = 1 AND b = 'x' AND (c > 2 OR NOT d = true)")
    assert tree == AllOf(
        (
            Compare("a", "=", 1),
            Compare("b", "=", "x"),
            AnyOf((Compare("c", ">", 2), Not(Compare("d", "=", True)))),
        )
    )


def test_limits_are_where_they_are_said_to_be() -> None:
    """64 terms, depth 8 and 1,000 values pass."""
    parse_filter(" AND ".join(["a = 1"] * 64))
    parse_filter("(" * 7 + "a = 1" + ")" * 7)
    parse_filter(f"a IN ({','.join('1' * 1000)})")
