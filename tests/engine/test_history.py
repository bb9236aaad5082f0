"""What the next answer is expected to take follows from the answers before it."""

from __future__ import annotations

import pytest

from adapterdb.engine.history import KEEP, History, ran
from adapterdb.engine.runtime import Acted

TIMES = {"search": 10.0, "load": 2.0, "generate": 60.0, "total": 72.0}


def test_nothing_is_expected_before_the_first_answer_of_a_mode() -> None:
    history = History()
    history.observe("rag", 100, 20, TIMES)
    assert history.estimate("base", 10) == {}
    assert history.estimate("rag", 100) == {
        "search": 10, "load": 2, "tokens_in": 100, "tokens_out": 20, "generate": 60, "total": 72,
    }  # fmt: skip


def test_generating_grows_with_the_tokens_and_means_move_slowly() -> None:
    history = History()
    history.observe("rag", 100, 20, TIMES)
    assert history.estimate("rag", 220)["generate"] == pytest.approx(120)
    history.observe("rag", 100, 20, {**TIMES, "search": 20.0})
    assert history.estimate("rag", 100)["search"] == pytest.approx(10 * KEEP + 20 * (1 - KEEP))


def test_an_empty_answer_is_observed_too() -> None:
    history = History()
    history.observe("base", 0, 0, {})
    assert history.estimate("base", 5)["total"] == 0


def test_the_record_says_how_a_request_was_carried_out() -> None:
    asked = {"namespace": "default", "k": 3, "found": 3, "where": None, "as_of": None, "read": 1}
    found = ran(asked, 3, 2, Acted("fold"), {"total": 9.0})
    assert (found["read"], found["resident"], found["batch"], found["acted"]) == (1, 2, 2, "fold")
    assert (found["costs_ms"], found["expected"]) == ({}, {"total": 9.0})
    assert asked.items() <= found.items()
