"""Plans to answers: make the deltas act, decode, cite.

One batch may mix questions with different mixtures, prompts and options; what several threads ask
at once is answered in one batch. Where nothing relevant is stored the base model answers alone and
the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapterdb.answers import Answer, Source, Token, check_question
from adapterdb.engine.costs import Work
from adapterdb.engine.decode import decode
from adapterdb.engine.history import History, ran
from adapterdb.engine.plan import AskOptions, Plan, Planner
from adapterdb.engine.queue import RequestQueue
from adapterdb.engine.relay import relayed
from adapterdb.engine.search import Found
from adapterdb.engine.stops import StopRules
from adapterdb.engine.voices import Said

BATCH = 64  # questions decoded together at most; those that have ended leave the batch
_UNFINISHED = "\ufffd"  # how a character looks of which only some bytes have been said


class Answerer:
    """Answers questions as a planner plans them. Thread-safe."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.runtime = planner.runtime
        self.queue: RequestQueue[Plan, Answer] = RequestQueue(self._answers, BATCH)
        encoder = self.runtime.base.encoder
        ids, texts = encoder.stops()
        self.history = History()
        self._stops = StopRules(ids, texts, encoder.decode)

    def ask_many(
        self,
        questions: Sequence[str],
        options: AskOptions,
        found: Sequence[Sequence[Found]] | None = None,
    ) -> list[Answer]:
        """Answers in the order of the questions, each as if it had been asked alone.

        Args:
            found: what ``Planner.find`` gave for each; None: searched here.
        """
        for question in questions:
            check_question(question)
        answers: list[Answer] = []
        for first in range(0, len(questions), BATCH):
            part = slice(first, first + BATCH)
            plans = self.planner.plans(questions[part], options, found and found[part])
            # who holds the model can't wait in a line whose first waits for the model
            ask = self._answers if self.runtime.lock.is_mine else self.queue.ask
            answers += ask(plans)
        return answers

    def stream(
        self, question: str, options: AskOptions, found: Sequence[Found] | None = None
    ) -> Iterator[Token]:
        """Pieces of one answer as they come; the last token carries the whole answer."""
        plan = self.planner.plan(question, options, found)
        # who holds the model can't wait for a thread that waits for the model
        yield from (
            self._pieces(plan) if self.runtime.lock.is_mine else relayed(lambda: self._pieces(plan))
        )

    def _pieces(self, plan: Plan) -> Iterator[Token]:
        shown = ""
        for said, answers in self._run([plan]):
            text = self._stops.text([one.token for one in said[0]])
            piece = text[len(shown) :] if text.startswith(shown) else ""
            if answers:
                yield Token(piece, answers[0])
            elif piece and not text.endswith(_UNFINISHED):
                shown = text
                yield Token(piece)

    def _answers(self, plans: Sequence[Plan]) -> list[Answer]:
        """The answers to one batch, in as many parts as there are slots for its deltas."""
        answers: list[Answer] = []
        for part in _parts(plans, len(self.runtime.pool.rows)):
            *_, (_, made) = self._run(part)
            answers += made
        return answers

    def _run(self, plans: Sequence[Plan]) -> Iterator[tuple[list[list[Said]], list[Answer]]]:
        """Decode; yields what was said so far after each step, at last with the answers."""
        said: list[list[Said]] = [[] for _ in plans]
        registered = {i: r for plan in plans for i, r in plan.registered.items()}
        work = Work(
            sum(len(plan.prompt) for plan in plans), max(plan.answer_tokens for plan in plans)
        )
        began = time.perf_counter()
        mixtures = [plan.mixture for plan in plans]
        with self.runtime.acting(mixtures, registered, work=work) as model:
            acting, acted = time.perf_counter(), self.runtime.acted
            first = acting
            steps = decode(
                model,
                [plan.prompt for plan in plans],
                [plan.generation for plan in plans],
                self._stops,
                [plan.answer_tokens for plan in plans],
                on_keep=self.runtime.adapted.keep_rows,
            )
            for number, step in enumerate(steps):
                first = time.perf_counter() if number == 0 else first
                for row, one in enumerate(step):
                    said[row] += [] if one is None else [one]
                yield said, []
        ended = time.perf_counter()
        timings = {
            "load": 1e3 * (acting - began),
            "first_token": 1e3 * (first - acting),
            "generate": 1e3 * (ended - acting),
        }
        expected = [self.history.estimate(plan.mode, len(plan.prompt)) for plan in plans]
        answers = []
        for plan, mine, before in zip(plans, said, expected, strict=True):
            made = ran(plan.asked, len(plan.mixture.parts), len(plans), acted, before)
            answers.append(self._answer(plan, mine, timings, made))
        yield said, answers

    def _answer(
        self,
        plan: Plan,
        said: Sequence[Said],
        timings: Mapping[str, float],
        made: Mapping[str, Any],
    ) -> Answer:
        self.runtime.chooser.observe(plan.answer_tokens, len(said))
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
                title=hit.title,
            )
            for hit in plan.sources
            if plan.mode in ("rag", "hybrid") or hit.delta_id in weights
        )
        times = {"search": plan.search_ms, **timings}
        times["total"] = times["search"] + times["load"] + times["generate"]
        self.history.observe(plan.mode, len(plan.prompt), len(said), times)
        return Answer(
            question=plan.question,
            text=self._stops.text([one.token for one in said]),
            mode=plan.mode,
            sources=sources,
            mixture=plan.mixture,
            tokens_in=len(plan.prompt),
            tokens_out=len(said),
            timings_ms={name: round(value, 2) for name, value in times.items()},
            note=plan.note,
            logprob=sum(one.logprob for one in said) / len(said) if said else None,
            ran=made,
        )


def _parts(plans: Sequence[Plan], slots: int) -> Iterator[Sequence[Plan]]:
    """Runs of plans with no more deltas than slots together; at least one plan each.

    A delta counts for each question it acts on: its factors are gathered for each.
    """
    first = deltas = 0
    for at, plan in enumerate(plans):
        mine = len(plan.mixture.parts)
        if at > first and deltas + mine > slots:
            yield plans[first:at]
            first, deltas = at, 0
        deltas += mine
    yield plans[first:]
