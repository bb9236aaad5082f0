"""Why an answer is as it is: its plan as a tree, its mixture, the gate's choices, sources' shares.

Everything is found again from the answer's own record, so that a stored answer is explained like a
fresh one. Nothing about answers is kept in the home: there is nothing of them to forget. A source
that has been deleted or forgotten since gets no share, and the shares of the others are those of an
answer without it. Prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from adapterdb.answers import Answer
from adapterdb.embedder import Embedder
from adapterdb.engine.attribution import Attribution, Attributor, LayerUse
from adapterdb.engine.remake import remake
from adapterdb.engine.runtime import Runtime
from adapterdb.engine.search import CANDIDATES_PER_HIT
from adapterdb.records import Record
from adapterdb.store.filters import as_filter
from adapterdb.store.passages import Scope
from adapterdb.store.store import Store

DIFFERS = 0.05  # nats a token by which an answer made again may differ from the record
T = TypeVar("T")


@dataclass(frozen=True)
class Node(Record):
    """A step of the plan.

    Args:
        rows_estimated, rows: how many passages, deltas or tokens it was expected to give, and gave.
        ms_estimated, ms: wall milliseconds expected and taken; None where nothing is known, as
            before the first answer in a mode.
        children: the steps it worked on the results of.
    """

    name: str
    detail: str = ""
    rows_estimated: float | None = None
    rows: int | None = None
    ms_estimated: float | None = None
    ms: float | None = None
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Weighed(Record):
    """A part of the mixture; ``document`` as name@version, empty where the record has none."""

    delta_id: str
    document: str
    weight: float


@dataclass(frozen=True)
class Explanation(Record):
    """Why an answer is as it is.

    Args:
        plan: the last step first.
        mixture: the deltas that acted, in order.
        gates: how those that are left were used, layer by layer; empty without a gate.
        attribution: None where nothing is left to attribute.
        notes: what could not be explained, and what is no longer as it was.
    """

    question: str
    mode: str
    plan: Node
    mixture: tuple[Weighed, ...]
    gates: tuple[LayerUse, ...]
    attribution: Attribution | None
    notes: tuple[str, ...]


class Explainer:
    """Explains the answers of one home."""

    def __init__(self, store: Store, embedder: Embedder, runtime: Runtime) -> None:
        self.store, self.embedder, self.runtime = store, embedder, runtime

    def explain(self, answer: Answer) -> Explanation:
        """The explanation of an answer of this home, given by this process or another."""
        remade = remake(answer, self.store, self.runtime)
        attributor = Attributor(self.runtime, remade.registered)
        attribution = gates = None
        notes = remade.notes
        if remade.case is not None:
            attribution = attributor.attribute(remade.case)
            gates = attributor.gate_use(remade.case)
            notes += _unlike(answer, attribution)
        names = {s.delta_id: f"{s.document}@{s.version}" for s in answer.sources}
        parts = tuple(Weighed(i, names.get(i, ""), w) for i, w in answer.mixture.parts)
        return Explanation(
            answer.question, answer.mode, self._plan(answer), parts, gates or (), attribution, notes
        )

    def _plan(self, answer: Answer) -> Node:
        """The tree: answer, decode, act, load, search and prompt."""
        ran, ms, expected = answer.ran, answer.timings_ms, _expected(answer)
        prompt = Node("prompt", _prompt_detail(answer), expected.get("tokens_in"), answer.tokens_in)
        below = [prompt]
        if "namespace" in ran:
            below.insert(0, self._search(answer))
        if answer.mixture.parts:
            load = Node(
                "load",
                f"{ran.get('resident', '?')} resident, {ran.get('read', '?')} read",
                _number(ran, "k"), len(answer.mixture.parts),
                expected.get("load"), ms.get("load"), tuple(below),
            )  # fmt: skip
            below = [Node("act", _act_detail(answer), children=(load,))]
        decode = Node(
            "decode",
            f"{_counted(ran, 'batch', 'question')} in the batch",
            expected.get("tokens_out"), answer.tokens_out,
            expected.get("generate"), ms.get("generate"), tuple(below),
        )  # fmt: skip
        detail = f"mode {answer.mode}"
        return Node("answer", detail, 1, 1, expected.get("total"), ms.get("total"), (decode,))

    def _search(self, answer: Answer) -> Node:
        """The search, and its lists as they come out when they are asked again now."""
        ran = answer.ran
        namespace, where, as_of = ran["namespace"], ran.get("where"), ran.get("as_of")
        k = int(ran["k"])
        depth = k * CANDIDATES_PER_HIT
        stored = self.store.passage_queries.count(Scope(namespace, None, None))
        scope: dict[str, Any] = {"where": where, "as_of": as_of}
        vector, embed_ms = _timed(lambda: self.embedder.encode([answer.question])[0])
        near, near_ms = _timed(lambda: self.store.search_vectors(namespace, vector, depth, **scope))
        words, words_ms = _timed(
            lambda: self.store.search_text(namespace, answer.question, depth, **scope)
        )
        least = min(depth, stored)
        lists = [
            Node("vector", "cosine, asked again", least, len(near), None, near_ms),
            Node("text", "BM25, asked again", least, len(words), None, words_ms),
            Node("embed", "asked again", 1, 1, None, embed_ms),
        ]
        if where is not None or as_of is not None:
            allowed = Scope(namespace, as_filter(where), as_of)
            count, count_ms = _timed(lambda: self.store.passage_queries.count(allowed))
            detail = "" if where is None else where
            detail += "" if as_of is None else f" as of change {as_of}"
            lists.append(Node("filter", detail.strip(), stored, count, None, count_ms))
        expected = _expected(answer).get("search")
        return Node(
            "search", f"hybrid, namespace {namespace}, k {k}", min(k, stored),
            _number(ran, "found"), expected, answer.timings_ms.get("search"), tuple(lists),
        )  # fmt: skip


def _act_detail(answer: Answer) -> str:
    """How the mixture acted: composition, slots or folded, and what that was expected to cost."""
    ran, count = answer.ran, len(answer.mixture.parts)
    detail = f"{answer.mixture.composition} of {count} delta{'' if count == 1 else 's'}"
    if ran.get("acted"):
        detail += f", {ran['acted']}"
    costs = ran.get("costs_ms") or {}
    if costs:
        said = ", ".join(f"{name} {float(ms):.3g}" for name, ms in costs.items())
        detail += f" (measured ms: {said})"
    return detail


def _prompt_detail(answer: Answer) -> str:
    return "with text" if answer.mode in ("rag", "hybrid") and answer.sources else "blind"


def _counted(ran: Mapping[str, Any], name: str, noun: str) -> str:
    count = ran.get(name, 1)
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(ran: Mapping[str, Any], name: str) -> int | None:
    value = ran.get(name)
    return int(value) if isinstance(value, int | float) else None


def _expected(answer: Answer) -> Mapping[str, float]:
    expected: Mapping[str, float] = answer.ran.get("expected") or {}
    return expected


def _unlike(answer: Answer, attribution: Attribution) -> tuple[str, ...]:
    """A note where the answer made again is not as likely as it was."""
    now = attribution.logprob / attribution.tokens
    if answer.logprob is None or abs(now - answer.logprob) <= DIFFERS:
        return ()
    return (
        f"the mean log-probability was {answer.logprob:.3f} when it was answered"
        f" and is {now:.3f} now",
    )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, 1e3 * (time.perf_counter() - began)
