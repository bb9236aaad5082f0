"""The ask path: search, compose, prompt, decode, cite.

One batch may mix questions with different mixtures and prompts. Where nothing relevant is stored
the base model answers alone and the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from adapterdb.config import SearchConfig
from adapterdb.embedder import Embedder
from adapterdb.engine.compose import compose
from adapterdb.engine.decode import StopRules, decode
from adapterdb.engine.runtime import Registered, Runtime
from adapterdb.engine.search import Found, search
from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.records import (
    MAX_K,
    MODES,
    Answer,
    Composition,
    Generation,
    Hit,
    Mixture,
    Mode,
    Source,
    Token,
    check_int,
    check_number,
    check_question,
)
from adapterdb.store.store import Store

BATCH = 16  # questions decoded together; more would only wait for the longest answer
NOTHING_RELEVANT = "nothing relevant is stored; answered by the base model alone"


@dataclass(frozen=True)
class AskOptions:
    """How questions are answered; None takes the home's own setting.

    Args:
        mode: ``base`` (blind), ``rag`` (text in prompt), ``adapter`` (deltas), ``hybrid`` (both).
        k: hits used, 1 to 100.
        composition: ``cat``, ``mean`` or ``single``.
        namespace: searched.
        where: filter over names and metadata.
        min_similarity: hits under this cosine are not used.
        mixture: these deltas instead of searched ones (mode ``adapter`` or ``hybrid``).
        generation: how answers are decoded.
    """

    mode: Mode = "hybrid"
    k: int | None = None
    composition: Composition = "cat"
    namespace: str = "default"
    where: str | None = None
    min_similarity: float | None = None
    mixture: Mixture | None = None
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.k is not None:
            check_int("k", self.k, 1, MAX_K)
        if self.min_similarity is not None:
            check_number("min_similarity", self.min_similarity, -1.0, 1.0)
        if self.mixture is not None and self.mode not in ("adapter", "hybrid"):
            raise InvalidInput(f"a mixture can't act in mode {self.mode!r}; use adapter or hybrid")


@dataclass(frozen=True)
class _Plan:
    """A question ready to be decoded."""

    question: str
    hits: tuple[Hit, ...]
    mixture: Mixture
    registered: dict[str, Registered]
    prompt: tuple[int, ...]
    note: str
    search_ms: float


class Answerer:
    """Answers questions from one store with one runtime. Thread-safe by the runtime's lock."""

    def __init__(
        self, store: Store, embedder: Embedder, runtime: Runtime, settings: SearchConfig
    ) -> None:
        self.store, self.embedder, self.runtime = store, embedder, runtime
        self.settings = settings
        encoder = runtime.base.encoder
        ids, texts = encoder.stops()
        self._stops = StopRules(ids, texts, encoder.decode)

    def ask_many(self, questions: Sequence[str], options: AskOptions) -> list[Answer]:
        """Answers in the order of the questions, each as if it had been asked alone."""
        for question in questions:
            check_question(question)
        answers: list[Answer] = []
        size = max(1, min(BATCH, len(self.runtime.pool.rows) // self._k(options)))
        for first in range(0, len(questions), size):
            answers += self._batch(questions[first : first + size], options)
        return answers

    def stream(self, question: str, options: AskOptions) -> Iterator[Token]:
        """Pieces of one answer as they come; the last token carries the whole answer."""
        began = time.perf_counter()
        plan = self._plan(question, options)
        shown = ""
        for said, answers in self._run([plan], options, began):
            text = self._stops.text(said[0])
            if len(text) > len(shown):
                yield Token(text[len(shown) :])
                shown = text
            if answers:
                yield Token("", answers[0])

    def _batch(self, questions: Sequence[str], options: AskOptions) -> list[Answer]:
        began = time.perf_counter()
        plans = [self._plan(question, options) for question in questions]
        answers: list[Answer] = []
        for _, answers in self._run(plans, options, began):  # noqa: B007 - the last one counts
            pass
        return answers

    def _plan(self, question: str, options: AskOptions) -> _Plan:
        check_question(question)
        encoder = self.runtime.base.encoder
        began = time.perf_counter()
        found = self._find(question, options)
        hits = [entry.hit for entry in found]
        mixture = options.mixture or compose(
            hits, options.composition, temperature=self.settings.temperature
        )
        if options.mode in ("base", "rag"):
            mixture = Mixture((), options.composition)
        registered = {e.hit.delta_id: Registered(e.hit.kind, e.row) for e in found}
        if options.mixture is not None:
            registered = self.registered(options.mixture)
        note = ""
        if options.mode != "base" and not hits and not mixture.parts:
            note = NOTHING_RELEVANT
        mixture, damaged = self._without_damaged(mixture, registered)
        if damaged:
            note = f"left out because damaged: {', '.join(damaged)}; run 'adb doctor'"
        prompt, used = encoder.blind(question), len(hits)
        room = encoder.max_length - self._answer_tokens(options)
        if options.mode in ("rag", "hybrid") and hits:
            passages = [(hit.title, hit.text) for hit in hits]
            prompt, used = encoder.context(question, passages, encoder.max_length - room)
        if len(prompt) > room or room < 1:
            raise InvalidInput(
                f"the question needs {len(prompt)} tokens and the answer"
                f" {encoder.max_length - room}; the base model takes {encoder.max_length} in all",
                hint="ask a shorter question or lower --max-tokens",
            )
        if options.mode == "rag":
            hits = hits[:used]
        milliseconds = 1e3 * (time.perf_counter() - began)
        return _Plan(question, tuple(hits), mixture, registered, tuple(prompt), note, milliseconds)

    def registered(self, mixture: Mixture) -> dict[str, Registered]:
        """Kind and place of the deltas a caller named; NotFound if one is not active."""
        ids = [delta_id for delta_id, _ in mixture.parts]
        rows = self.store.rows_of(ids)
        return {
            i: Registered(self.store.delta(i).kind, row) for i, row in zip(ids, rows, strict=True)
        }

    def _find(self, question: str, options: AskOptions) -> list[Found]:
        if options.mode == "base" or (options.mixture is not None and options.mode == "adapter"):
            return []
        found = search(
            self.store,
            self.embedder,
            question,
            k=self._k(options),
            namespace=options.namespace,
            where=options.where,
        )
        least = options.min_similarity
        least = self.settings.min_similarity if least is None else least
        return [entry for entry in found if entry.hit.similarity >= least]

    def _without_damaged(
        self, mixture: Mixture, registered: Mapping[str, Registered]
    ) -> tuple[Mixture, list[str]]:
        """The mixture without deltas whose stored bytes fail their check, and their ids."""
        damaged = []
        for delta_id, _ in mixture.parts:
            try:
                with (
                    self.runtime.lock,
                    self.runtime.pool.resident({delta_id: registered[delta_id].row}),
                ):
                    pass
            except Corrupt:
                damaged.append(delta_id)
        kept = tuple(part for part in mixture.parts if part[0] not in damaged)
        return Mixture(kept, mixture.composition), damaged

    def _run(
        self, plans: Sequence[_Plan], options: AskOptions, began: float
    ) -> Iterator[tuple[list[list[int]], list[Answer]]]:
        """Decode; yields what was said so far after each step, at last with the answers."""
        said: list[list[int]] = [[] for _ in plans]
        registered = {i: r for plan in plans for i, r in plan.registered.items()}
        load_from = time.perf_counter()
        with self.runtime.acting([plan.mixture for plan in plans], registered) as model:
            load_ms = 1e3 * (time.perf_counter() - load_from)
            decode_from = time.perf_counter()
            steps = decode(
                model,
                [plan.prompt for plan in plans],
                options.generation,
                self._stops,
                self._answer_tokens(options),
            )
            for step in steps:
                for row, token in enumerate(step):
                    said[row] += [] if token is None else [token]
                yield said, []
        now = time.perf_counter()
        generate_ms = 1e3 * (now - decode_from)
        timings = {"load": load_ms, "generate": generate_ms, "total": 1e3 * (now - began)}
        yield (
            said,
            [
                self._answer(plan, tokens, options, {"search": plan.search_ms, **timings})
                for plan, tokens in zip(plans, said, strict=True)
            ],
        )

    def _answer(
        self, plan: _Plan, said: Sequence[int], options: AskOptions, timings: dict[str, float]
    ) -> Answer:
        weights = dict(plan.mixture.parts)
        sources = tuple(
            Source(
                document=hit.document,
                version=hit.version,
                start=hit.start,
                end=hit.end,
                delta_id=hit.delta_id,
                weight=weights.get(hit.delta_id, 0.0),
                similarity=hit.similarity,
                text=hit.text,
            )
            for hit in plan.hits
            if options.mode in ("rag", "hybrid") or hit.delta_id in weights
        )
        return Answer(
            question=plan.question,
            text=self._stops.text(said),
            mode=options.mode,
            sources=sources,
            mixture=plan.mixture,
            tokens_in=len(plan.prompt),
            tokens_out=len(said),
            timings_ms={name: round(value, 2) for name, value in timings.items()},
            note=plan.note,
        )

    def _k(self, options: AskOptions) -> int:
        return self.settings.k if options.k is None else options.k

    def _answer_tokens(self, options: AskOptions) -> int:
        chosen = options.generation.max_tokens
        encoder = self.runtime.base.encoder
        return chosen if chosen is not None else encoder.prompts.max_new_tokens
