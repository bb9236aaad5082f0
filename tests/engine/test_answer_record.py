"""A stored answer is read back whole, or refused with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from adapterdb.answers import Answer, Dials, Mixture, Source
from adapterdb.engine.answer_record import answer_from
from adapterdb.errors import InvalidInput

ID = "0123456789abcdef" * 2
ANSWER = Answer(
    "Who?", "Mara", "hybrid",
    (Source("d", 1, 0, 9, ID, 0.5, 0.7, "Mara did.", "T"),),
    Mixture(((ID, 0.5),), "ties", Dials(density=0.3)),
    20, 1, {"total": 5.0}, "note", -0.25,
    {"namespace": "default", "k": 1, "where": None, "as_of": 3, "found": 1, "batch": 1,
     "acted": "slots", "read": 1, "resident": 0, "costs_ms": {}, "expected": {"total": 4.0}},
)  # fmt: skip


def stored() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(ANSWER.to_dict()))
    return data


def test_what_was_stored_comes_back() -> None:
    """Also out of what 'adb ask --explain --json' prints, and with fields of a later version."""
    assert answer_from(stored()) == ANSWER
    assert answer_from({"answer": stored(), "explanation": {}}) == ANSWER
    later = stored()
    later["mixture"]["dials"]["later"] = later["ran"]["later"] = later["later"] = 1
    assert answer_from(later) == ANSWER


def test_a_record_of_an_earlier_version_is_enough() -> None:
    old = stored()
    for name in ("logprob", "ran", "note"):
        del old[name]
    del old["sources"][0]["title"], old["mixture"]["dials"]
    found = answer_from(old)
    assert (found.logprob, found.ran, found.sources[0].title) == (
        None, {"expected": {}, "costs_ms": {}}, "",
    )  # fmt: skip


def changed(*path: str | int, value: Any) -> Callable[[], Any]:
    def make() -> Any:
        data: Any = stored()
        inner = data
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        return data

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [], "no JSON object but a list"),
        (lambda: "x", "no JSON object but a str"),
        (lambda: {"answer": 3, "explanation": {}}, "no JSON object"),
        (lambda: {k: v for k, v in stored().items() if k != "sources"}, "no field 'sources'"),
        (changed("mode", value="auto"), "'auto'"),
        (changed("mode", value=[]), "mode"),
        (changed("question", value=""), "the question is empty"),
        (changed("text", value=3), "text is 3"),
        (changed("tokens_in", value=-1), "tokens_in is -1"),
        (changed("tokens_out", value=True), "tokens_out is True"),
        (changed("timings_ms", "total", value=float("nan")), "total"),
        (changed("timings_ms", value=[]), "timings_ms"),
        (changed("logprob", value=1.0), "logprob is 1.0"),
        (changed("sources", value=7), "no stored answer"),
        (changed("sources", 0, "delta_id", value=ID[:8]), "32 hex digits"),
        (changed("sources", 0, "delta_id", value=ID.upper()), "32 hex digits"),
        (changed("sources", 0, "weight", value=float("inf")), "weight is inf"),
        (changed("sources", 0, "similarity", value="x"), "similarity is 'x'"),
        (changed("mixture", "composition", value="stew"), "'stew'"),
        (changed("mixture", "composition", value={}), "composition"),
        (changed("mixture", "parts", value=[[ID]]), "no stored answer"),
        (changed("mixture", "parts", value=[["x", 1]]), "32 hex digits"),
        (changed("mixture", "dials", value=3), "dials is no JSON object"),
        (changed("mixture", "dials", "density", value=9), "density is 9"),
        (changed("ran", value=3), "ran"),
        (changed("ran", "k", value=10**9), "k is 1000000000"),
        (changed("ran", "namespace", value=""), "namespace"),
        (changed("ran", "where", value=3), "where is 3"),
        (changed("ran", "as_of", value=-3), "as_of is -3"),
        (changed("ran", "acted", value=None), "acted is None"),
        (changed("ran", "batch", value="many"), "batch is 'many'"),
        (changed("ran", "expected", value={"total": "x"}), "total is 'x'"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused(make: Callable[[], Any], said: str) -> None:
    """The error names the place, the value, and what to give instead."""
    with pytest.raises(InvalidInput) as caught:
        answer_from(make(), "the line")
    assert said in caught.value.message
    assert caught.value.message.startswith("the line")
    assert caught.value.hint == "give the output of 'adb ask --json'"
