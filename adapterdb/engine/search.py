"""A question to ranked hits: vectors and words, fused by rank, joined to the catalog by the store.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): the score of a passage is the
sum over the lists it is in of 1 / (60 + rank). It needs no scale shared by cosine and BM25.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from adapterdb.answers import MAX_K, check_question
from adapterdb.embedder import Embedder
from adapterdb.engine.registered import Registered
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit, SearchKind, check_int, check_namespace
from adapterdb.store.rows import PassageRow, Scored, Vector
from adapterdb.store.store import Store

RRF_CONSTANT = 60
CANDIDATES_PER_HIT = 4  # fusion looks this many times deeper than it returns
KINDS = ("hybrid", "vector", "text")


class Found(NamedTuple):
    """A hit, what it takes to act with its delta, and whether that one can't be used."""

    hit: Hit
    registered: Registered
    damaged: bool


def search(
    store: Store,
    embedder: Embedder,
    question: str,
    *,
    k: int = 3,
    namespace: str = "default",
    where: str | None = None,
    kind: SearchKind = "hybrid",
    as_of: int | None = None,
    vector: Vector | None = None,
    more: int = 0,
) -> list[Found]:
    """The ``k`` passages that fit the question best, best first; fewer if fewer are stored.

    Args:
        k: 1 to 100.
        where: filter over names and metadata, applied before the search, never after.
        kind: ``vector`` (cosine), ``text`` (BM25) or ``hybrid`` (both, fused).
        as_of: search what was stored as of this change; None means now.
        vector: of the question, unit ``(D,)``; None: embedded here.
        more: hits beyond ``k``, out of the same lists, so that the first ``k`` are what they are
            without (deeper lists would be fused to another order).

    Raises:
        InvalidInput: for a question, ``k``, namespace or kind that isn't allowed.
        BadFilter: for a ``where`` that can't be understood.
    """
    check_question(question)
    check_int("k", k, 1, MAX_K)
    check_namespace(namespace)
    if kind not in KINDS:
        raise InvalidInput(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    depth = k * CANDIDATES_PER_HIT
    lists: list[list[Scored]] = []
    scope: dict[str, Any] = {"where": where, "as_of": as_of}
    if kind != "vector":
        lists.append(store.search_text(namespace, question, depth, **scope))
        # while the question is embedded, the disk may bring in what words have found
        store.will_need([passage.row for passage, _ in lists[0][:k]])
    if vector is None:
        vector = embedder.encode([question])[0]
    if kind != "text":
        lists.append(store.search_vectors(namespace, vector, depth, **scope))
    single = [(scored.passage, scored.score) for scored in lists[0]]
    ranked = (fuse(lists) if kind == "hybrid" else single)[: k + more]
    similar = store.similarities(vector, [passage.passage_id for passage, _ in ranked], as_of)
    ranked = [entry for entry in ranked if entry[0].passage_id in similar]  # not deleted meanwhile
    return [
        found_as(passage, similar[passage.passage_id], score, rank)
        for rank, (passage, score) in enumerate(ranked, start=1)
    ]


def found_as(passage: PassageRow, similarity: float, score: float, rank: int) -> Found:
    """What a stored passage is as a hit."""
    hit = Hit(
        passage_id=passage.passage_id,
        delta_id=passage.delta_id,
        kind=passage.kind,
        namespace=passage.namespace,
        document=passage.document,
        version=passage.version,
        title=passage.title,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        similarity=similarity,
        score=score,
        rank=rank,
    )
    known = Registered(passage.kind, passage.row, passage.shared_start, passage.prototype)
    return Found(hit, known, passage.damaged)


def fuse(lists: list[list[Scored]]) -> list[tuple[PassageRow, float]]:
    """Passages of all lists by reciprocal rank fusion, best first; ties by passage id."""
    scores: dict[int, float] = {}
    found: dict[int, PassageRow] = {}
    for ranking in lists:
        for rank, (passage, _) in enumerate(ranking, start=1):
            found[passage.passage_id] = passage
            scores[passage.passage_id] = scores.get(passage.passage_id, 0.0) + 1 / (
                RRF_CONSTANT + rank
            )
    order = sorted(found, key=lambda i: (-scores[i], i))
    return [(found[i], scores[i]) for i in order]
