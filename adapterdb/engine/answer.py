"""Plans to answers: make the deltas act, decode, cite.

One batch may mix questions with different mixtures and prompts. Where nothing relevant is stored
the base model answers alone and the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from adapterdb.answers import Answer, Source, Token, check_question
from adapterdb.engine.decode import StopRules, decode
from adapterdb.engine.plan import AskOptions, Plan, Planner

BATCH = 16  # questions decoded together; more would only wait for the longest answer
_UNFINISHED = "\ufffd"  # how a character looks of which only some bytes have been said


class Answerer:
    """Answers questions as a planner plans them. Thread-safe by the runtime's lock."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.runtime = planner.runtime
        encoder = self.runtime.base.encoder
        ids, texts = encoder.stops()
        self._stops = StopRules(ids, texts, encoder.decode)

    def ask_many(self, questions: Sequence[str], options: AskOptions) -> list[Answer]:
        """Answers in the order of the questions, each as if it had been asked alone."""
        for question in questions:
            check_question(question)
        answers: list[Answer] = []
        size = max(1, min(BATCH, len(self.runtime.pool.rows) // self.planner.k(options)))
        for first in range(0, len(questions), size):
            answers += self._batch(questions[first : first + size], options)
        return answers

    def stream(self, question: str, options: AskOptions) -> Iterator[Token]:
        """Pieces of one answer as they come; the last token carries the whole answer."""
        began = time.perf_counter()
        plan = self.planner.plan(question, options)
        shown = ""
        for said, answers in self._run([plan], options, began):
            text = self._stops.text(said[0])
            piece = text[len(shown) :] if text.startswith(shown) else ""
            if answers:
                yield Token(piece, answers[0])
            elif piece and not text.endswith(_UNFINISHED):
                shown = text
                yield Token(piece)

    def _batch(self, questions: Sequence[str], options: AskOptions) -> list[Answer]:
        began = time.perf_counter()
        plans = [self.planner.plan(question, options) for question in questions]
        *_, (_, answers) = self._run(plans, options, began)
        return answers

    def _run(
        self, plans: Sequence[Plan], options: AskOptions, began: float
    ) -> Iterator[tuple[list[list[int]], list[Answer]]]:
        """Decode; yields what was said so far after each step, at last with the answers."""
        said: list[list[int]] = [[] for _ in plans]
        registered = {i: r for plan in plans for i, r in plan.registered.items()}
        load_from = time.perf_counter()
        with self.runtime.acting([plan.mixture for plan in plans], registered) as model:
            decode_from = time.perf_counter()
            steps = decode(
                model,
                [plan.prompt for plan in plans],
                options.generation,
                self._stops,
                self.planner.answer_tokens(options),
            )
            for step in steps:
                for row, token in enumerate(step):
                    said[row] += [] if token is None else [token]
                yield said, []
        now = time.perf_counter()
        timings = {
            "load": 1e3 * (decode_from - load_from),
            "generate": 1e3 * (now - decode_from),
            "total": 1e3 * (now - began),
        }
        yield (
            said,
            [
                self._answer(plan, tokens, options, {"search": plan.search_ms, **timings})
                for plan, tokens in zip(plans, said, strict=True)
            ],
        )

    def _answer(
        self, plan: Plan, said: Sequence[int], options: AskOptions, timings: dict[str, float]
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
            for hit in plan.sources
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
