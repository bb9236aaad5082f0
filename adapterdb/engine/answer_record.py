"""An answer read back from the JSON that ``adb ask --json`` printed.

The file is the user's: it may have been edited, cut short or made by something else, so everything
is checked and nothing is guessed. Fields this version doesn't know are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapterdb.answers import (
    COMPOSITIONS,
    MAX_K,
    MODES,
    Answer,
    Dials,
    Mixture,
    Source,
    check_question,
)
from adapterdb.errors import InvalidInput
from adapterdb.records import check_int, check_namespace, check_number

_COUNT = 10**9
_HINT = "give the output of 'adb ask --json'"


def answer_from(data: object, where: str = "the answer") -> Answer:
    """The answer that ``data``, parsed JSON, describes.

    Args:
        where: how an error names it.

    Raises:
        InvalidInput: naming what is missing or not allowed.
    """
    fields = _object(data, where)
    if "answer" in fields and "explanation" in fields:  # of 'adb ask --explain --json'
        fields = _object(fields["answer"], where)
    try:
        return _answer(fields)
    except KeyError as error:
        raise InvalidInput(f"{where} has no field {error}", hint=_HINT) from error
    except (TypeError, ValueError, InvalidInput) as error:
        raise InvalidInput(f"{where} is no stored answer: {error}", hint=_HINT) from error


def _object(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise InvalidInput(f"{where} is no JSON object but a {kind}", hint=_HINT)
    return data


def _answer(data: Mapping[str, Any]) -> Answer:
    if data["mode"] not in MODES:
        raise InvalidInput(f"mode {data['mode']!r} is not one of {', '.join(MODES)}")
    logprob = data.get("logprob")
    return Answer(
        question=check_question(data["question"]),
        text=_text("text", data["text"]),
        mode=data["mode"],
        sources=tuple(_source(source) for source in data["sources"]),
        mixture=_mixture(data["mixture"]),
        tokens_in=check_int("tokens_in", data["tokens_in"], 0, _COUNT),
        tokens_out=check_int("tokens_out", data["tokens_out"], 0, _COUNT),
        timings_ms={
            str(name): check_number(f"timings_ms {name}", ms, 0.0, 1e12)
            for name, ms in _object(data["timings_ms"], "timings_ms").items()
        },
        note=_text("note", data.get("note", "")),
        logprob=None if logprob is None else check_number("logprob", logprob, -1e6, 0.0),
        ran=_ran(_object(data.get("ran", {}), "ran")),
    )


def _ran(data: Mapping[str, Any]) -> dict[str, Any]:
    """How it was carried out, with what is used of it checked."""
    found = {name: data[name] for name in _RAN if name in data}
    for name in ("expected", "costs_ms"):
        numbers = _object(data.get(name) or {}, name)
        found[name] = {str(n): check_number(n, value, 0.0, 1e12) for n, value in numbers.items()}
    for name in ("found", "batch", "read", "resident"):
        if name in found:
            check_int(name, found[name], 0, _COUNT)
    if "acted" in found:
        _text("acted", found["acted"])
    if "namespace" in found:
        check_namespace(found["namespace"])
        check_int("k", found["k"], 1, MAX_K)
        if found.get("where") is not None:
            _text("where", found["where"])
        if found.get("as_of") is not None:
            check_int("as_of", found["as_of"], 0, 2**63 - 1)
    return found


_RAN = (
    "namespace", "where", "as_of", "k", "found", "batch", "acted", "read", "resident",
)  # fmt: skip


def _source(data: Mapping[str, Any]) -> Source:
    return Source(
        document=_text("document", data["document"]),
        version=check_int("version", data["version"], 1, _COUNT),
        start=check_int("start", data["start"], 0, _COUNT),
        end=check_int("end", data["end"], 0, _COUNT),
        delta_id=_delta_id(data["delta_id"]),
        weight=check_number("weight", data["weight"], -1e9, 1e9),
        similarity=check_number("similarity", data["similarity"], -1.01, 1.01),
        text=_text("text", data["text"]),
        title=_text("title", data.get("title", "")),
    )


def _mixture(data: Mapping[str, Any]) -> Mixture:
    if data["composition"] not in COMPOSITIONS:
        allowed = ", ".join(COMPOSITIONS)
        raise InvalidInput(f"composition {data['composition']!r} is not one of {allowed}")
    parts = tuple(
        (_delta_id(delta_id), check_number("weight", weight, -1e9, 1e9))
        for delta_id, weight in data["parts"]
    )
    dials = _object(data.get("dials", {}), "dials")
    known = {name: value for name, value in dials.items() if name in _DIALS}
    return Mixture(parts, data["composition"], Dials(**known))


_DIALS = frozenset(Dials.__dataclass_fields__)


def _delta_id(value: object) -> str:
    """``value`` if it is a whole delta id: a prefix could mean another delta by now."""
    if not isinstance(value, str) or len(value) != 32 or set(value) - set("0123456789abcdef"):
        raise InvalidInput(f"delta_id {value!r} is not 32 hex digits")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r}; allowed is text")
    return value
