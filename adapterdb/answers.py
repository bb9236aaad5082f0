"""What a question is answered with: mixtures of deltas, decoding options, answers and sources.

Plain frozen records like those of ``records``; ``to_dict`` is what ``--json`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from adapterdb.errors import InvalidInput
from adapterdb.records import Record, check_int, check_number

Mode = Literal["base", "rag", "adapter", "hybrid"]
AskMode = Literal["base", "rag", "adapter", "hybrid", "auto"]
Sum = Literal["cat", "mean", "single", "gradient"]
Merge = Literal[
    "linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune", "orthogonal"
]
Gate = Literal["arrow", "gate"]
Composition = Literal[Sum, Merge, Gate]
Weighting = Literal["score", "uniform", "sum"]

MODES: tuple[Mode, ...] = get_args(Mode)
ASK_MODES: tuple[AskMode, ...] = get_args(AskMode)
MERGES: tuple[Merge, ...] = get_args(Merge)
GATES: tuple[Gate, ...] = get_args(Gate)
COMPOSITIONS: tuple[Composition, ...] = (*get_args(Sum), *MERGES, *GATES)
STORABLE: tuple[Composition, ...] = ("cat", "gradient", *MERGES)  # that one delta can be
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
MAX_QUESTION_CHARS = 8192
MAX_K = 100


@dataclass(frozen=True)
class Dials(Record):
    """Numbers of a composition; those it has no use for are ignored.

    Args:
        density: share of entries that ``ties``, ``dare_*`` and ``magnitude_prune`` keep, in (0, 1];
            None: 0.2 for ties, else 0.5.
        seed: of what ``dare_*`` drops.
        top_k: deltas a token goes through in ``arrow`` and ``gate``, 1 to 100; None: as the gate
            was trained, 2 for ``arrow``.
        gate_temperature: of their softmax, above 0; higher is flatter (MeteoRA: 15 to 30 where a
            prompt holds several tasks). None: what the gate was trained with, 1 for ``arrow``.
    """

    density: float | None = None
    seed: int = 0
    top_k: int | None = None
    gate_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.density is not None:
            check_number("density", self.density, 1e-6, 1.0)
        check_int("seed", self.seed, 0, 2**63 - 1)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 1, MAX_K)
        if self.gate_temperature is not None:
            check_number("gate_temperature", self.gate_temperature, 1e-6, 1e6)


@dataclass(frozen=True)
class Mixture(Record):
    """Deltas and their weights for one question, best first, and how they are put together.

    Raises:
        InvalidInput: for an unknown composition, or a weight that is not within +-1e9.
    """

    parts: tuple[tuple[str, float], ...] = ()
    composition: Composition = "cat"
    dials: Dials = Dials()

    def __post_init__(self) -> None:
        if self.composition not in COMPOSITIONS:
            raise InvalidInput(
                f"composition {self.composition!r} is not one of {', '.join(COMPOSITIONS)}"
            )
        for delta_id, weight in self.parts:
            check_number(f"the weight of {delta_id}", weight, -1e9, 1e9)


@dataclass(frozen=True)
class Generation(Record):
    """How answers are decoded.

    Args:
        max_tokens: 1..4096 new tokens, or None for the base model's own default.
        temperature: 0 (greedy) to 10.
        top_p: nucleus mass in (0, 1]; used when temperature > 0.
        seed: of the sampling; the same seed gives the same answer.
        beams: 1..16 beginnings kept by beam search, at temperature 0 only; 1 is greedy. None: what
            the base model's prompts say for answers without text, 1 for others.
        length_penalty: -10..10, power of the length that an answer's log-probability is divided
            by in beam search; higher favours longer answers. None: the base model's own.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    beams: int | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        if self.beams is not None:
            check_int("beams", self.beams, 1, 16)
            if self.beams > 1 and self.temperature > 0:
                raise InvalidInput(
                    f"beams {self.beams} can't be searched at temperature {self.temperature}",
                    hint="beams need temperature 0; sampling needs 1 beam",
                )
        if self.length_penalty is not None:
            check_number("length_penalty", self.length_penalty, -10.0, 10.0)
        if self.max_tokens is not None:
            check_int("max_tokens", self.max_tokens, 1, 4096)
        check_number("temperature", self.temperature, 0.0, 10.0)
        check_number("top_p", self.top_p, 1e-6, 1.0)
        check_int("seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True)
class Source(Record):
    """What an answer leaned on: a passage, its delta, and the weight it acted with."""

    document: str
    version: int
    start: int
    end: int
    delta_id: str
    weight: float
    similarity: float
    text: str
    title: str = ""


@dataclass(frozen=True)
class Answer(Record):
    """An answer with its sources.

    Args:
        text: what the model said, stripped.
        sources: passages and deltas used, best first; empty in mode ``base``.
        tokens_in: prompt tokens; ``tokens_out``: generated tokens, the stop token not counted.
        timings_ms: wall milliseconds by stage (``search``, ``load``, ``generate`` and in it
            ``first_token``; ``total``); those of the model are of the whole batch.
        note: says when nothing relevant was stored, or what was left out; else empty.
        logprob: mean natural log-probability of the answer's tokens; None for an empty one.
        ran: how it was searched and carried out, and what was expected of that (``History``).
    """

    question: str
    text: str
    mode: Mode
    sources: tuple[Source, ...]
    mixture: Mixture
    tokens_in: int
    tokens_out: int
    timings_ms: Mapping[str, float]
    note: str = ""
    logprob: float | None = None
    ran: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Token(Record):
    """A piece of a streamed answer; the last one carries the whole answer."""

    text: str
    answer: Answer | None = None


def check_question(question: object) -> str:
    """``question`` if it is usable text, else InvalidInput saying why."""
    if not isinstance(question, str) or not question.strip():
        raise InvalidInput("the question is empty", hint="ask something in words")
    if len(question) > MAX_QUESTION_CHARS:
        raise InvalidInput(
            f"the question has {len(question)} characters; at most {MAX_QUESTION_CHARS} are allowed"
        )
    bad = next((c for c in question if (ord(c) < 32 and c not in "\t\n\r") or ord(c) == 127), None)
    if bad is not None or any(0xD800 <= ord(c) <= 0xDFFF for c in question):
        shown = repr(bad) if bad is not None else "a lone surrogate"
        raise InvalidInput(f"the question contains the control character {shown}; remove it")
    return question
