"""Filters and questions from strangers, in process: all of T14 is in benchmarks."""

from __future__ import annotations

import random

import hostile_filters as hostile
import pytest
from filter_fuzz import Asked, make_home

from adapterdb.errors import BadFilter
from adapterdb.store.filters import (
    Absent,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    Like,
    Not,
    OneOf,
    as_filter,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two namespaces, of which only one may be seen."""
    folder = tmp_path_factory.mktemp("fuzz") / "home"
    make_home(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ask(home: str) -> Asked:
    """Asks that store."""
    return Asked()


def test_payloads_find_what_they_say_or_are_refused(home: str, ask: Asked) -> None:
    """No payload sees a foreign row, raises anything else, or finds what it does not say."""
    refused = 0
    for where in random.Random(1).sample(hostile.payloads(), 150):
        became, wrong = ask((home, "filter", where))
        assert not wrong, (ascii(where[:200]), wrong)
        refused += became == "refused"
    assert 30 < refused < 140


def test_random_filters_mean_what_python_makes_of_them(home: str, ask: Asked) -> None:
    """SQL and a plain reading of the same tree choose the same documents."""
    source = random.Random(2)
    for _ in range(120):
        where = hostile.random_filter(source)
        assert ask((home, "filter", where))[1] == "", f"seed 2: {where}"


def test_any_question_is_asked_or_refused(home: str, ask: Asked) -> None:
    """Text search takes every string, and the check of questions raises only InvalidInput."""
    source = random.Random(3)
    for _ in range(150):
        question = hostile.random_question(source)
        assert ask((home, "question", question))[1] == "", f"seed 3: {question[:99]!r}"


@pytest.mark.parametrize(
    "where", ["name > true", "title = false", "source IN (true)", "created_at = 3"]
)
def test_columns_of_text_are_compared_with_text(where: str) -> None:
    """A truth value or number against a text column is refused before SQL sees it."""
    with pytest.raises(BadFilter, match="string"):
        as_filter(where)


@pytest.mark.parametrize(
    "tree",
    [
        Compare("year", "=", float("nan")),
        Compare("year", "=", 2**70),
        Compare("name", "=", True),
        OneOf("year", tuple(range(2000))),
        Like("name", "a\0", False, False),
        AnyOf(tuple(Absent(f"k{i}") for i in range(1000))),
        Not(Not(Not(Not(Not(Not(Not(Not(Absent("year"))))))))),
        AllOf(("year = 1",)),  # type: ignore[arg-type]
        {"year": 1},
    ],
    ids=repr,
)
def test_a_tree_made_by_hand_keeps_the_limits(tree: Filter) -> None:
    """What could not have been written as text is refused as a tree too."""
    with pytest.raises(BadFilter):
        as_filter(tree)
    good = AllOf((Compare("year", ">", 1), Not(Like("name", "x", True, True))))
    assert as_filter(good) is good
