"""Mode ``auto``: for each question the cheapest mode that is expected to answer about as well.

What retrieval looks like gives the expected F1 of each mode. The cheapest within the calibration's
tolerance of the best is asked; once its answer's confidence is known it is judged again, and where
another mode is now expected to do better by more than the tolerance, that one is asked too and the
answer judged higher is given. Nothing is asked more than twice. Where nothing relevant is stored
the base model answers. Knows neither how answers are made nor how a calibration is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adapterdb.answers import MODES, Answer, Mode, check_question
from adapterdb.engine.calibration import Calibration, retrieval_features
from adapterdb.engine.plan import NOTHING_RELEVANT, AskOptions
from adapterdb.engine.search import Found

NOT_CALIBRATED = "not calibrated: run 'adb train calibration QUESTIONS'"
UNCALIBRATED: Mode = "hybrid"  # what answers where something is found but nothing is known of it

Find = Callable[[Sequence[str], AskOptions], Sequence[Sequence[Found]]]
Ask = Callable[[Sequence[str], AskOptions, Sequence[Sequence[Found]]], Sequence[Answer]]


def cheapest(
    expected: Mapping[Mode, float], milliseconds: Mapping[Mode, float], tolerance: float
) -> Mode:
    """The cheapest mode whose expected F1 is within ``tolerance`` of the best."""
    enough = max(expected.values()) - tolerance
    return min((m for m in expected if expected[m] >= enough), key=milliseconds.__getitem__)


def better(
    mode: Mode, judged: float, expected: Mapping[Mode, float], tolerance: float
) -> Mode | None:
    """Another mode that is expected to beat an answer of ``mode`` by more than ``tolerance``.

    Args:
        judged: expected F1 of the answer that is there.
        expected: of every mode, before anything was generated.
    """
    other = max((m for m in expected if m != mode), key=expected.__getitem__)
    return other if expected[other] - tolerance > judged else None


def within(found: Sequence[Found], k: int) -> list[Found]:
    """The hits a fixed mode would use: of the first ``k``, those that were near enough."""
    return [entry for entry in found if entry.hit.rank <= k]


@dataclass(frozen=True)
class Choice:
    """Which mode a question is asked in first.

    Args:
        found: hits beyond ``k`` left out.
        retrieval: its features; empty where nothing is found or known.
        expected: F1 of each mode; empty likewise.
        ms: milliseconds it took to find and to choose.
    """

    mode: Mode
    found: Sequence[Found]
    note: str
    retrieval: Sequence[float]
    expected: Mapping[Mode, float]
    ms: float

    def noted(self, answer: Answer) -> Answer:
        """``answer`` with why its mode was asked, and the time that took."""
        return _noted(answer, self.note, {"search": self.ms})


class Auto:
    """Answers questions in a mode of its own choice.

    Args:
        find: what search finds for each question, best first; some hits beyond k if it can
            (``calibration.MORE``).
        k: how many hits an answer leans on.
        ask: answers in one fixed mode, given what has been found.
        calibration: None where the home has none: then hybrid answers what something is found for.
        remark: added to the note of what it has chosen.
    """

    def __init__(
        self,
        find: Find,
        k: Callable[[AskOptions], int],
        ask: Ask,
        calibration: Calibration | None,
        remark: str = "",
    ) -> None:
        self._remark = remark
        self._find, self._k, self._ask = find, k, ask
        self._calibration = calibration

    def choose(self, questions: Sequence[str], options: AskOptions) -> list[Choice]:
        """The mode to ask each in first; a stream asks no other, since it can't take words back."""
        for question in questions:
            check_question(question)
        began = time.perf_counter()
        found, k = self._find(questions, options), self._k(options)
        ms = 1e3 * (time.perf_counter() - began) / max(1, len(questions))
        return [
            self._choice(question, hits, k, ms)
            for question, hits in zip(questions, found, strict=True)
        ]

    def _choice(self, question: str, found: Sequence[Found], k: int, ms: float) -> Choice:
        known, used = self._calibration, within(found, k)
        if not used:
            return Choice("base", used, NOTHING_RELEVANT, (), {}, ms)
        if known is None:
            return Choice(UNCALIBRATED, used, NOT_CALIBRATED, (), {}, ms)
        retrieval = retrieval_features(question, [entry.hit for entry in found], k)
        expected = known.expected(retrieval)
        mode = cheapest(expected, known.milliseconds, known.tolerance)
        note = f"auto: {mode}, expected F1 {expected[mode]:.2f} ({_others(mode, expected)})"
        note += self._remark and f"; {self._remark}"
        return Choice(mode, used, note, retrieval, expected, ms)

    def ask_many(self, questions: Sequence[str], options: AskOptions) -> list[Answer]:
        """Answers in the order of the questions, in at most two batches of each mode."""
        choices = self.choose(questions, options)
        first = self._round(questions, choices, {i: c.mode for i, c in enumerate(choices)}, options)
        answers = [choice.noted(first[i]) for i, choice in enumerate(choices)]
        if self._calibration is None:
            return answers
        judged = [self._judged(c, a) for c, a in zip(choices, answers, strict=True)]
        others = {i: self._better(choices[i], judged[i]) for i in range(len(choices))}
        wanted = {i: mode for i, mode in others.items() if mode is not None}
        for i, again in self._round(questions, choices, wanted, options).items():
            answers[i] = self._best(choices[i], answers[i], judged[i], again)
        return answers

    def _round(
        self,
        questions: Sequence[str],
        choices: Sequence[Choice],
        modes: Mapping[int, Mode],
        options: AskOptions,
    ) -> dict[int, Answer]:
        """Ask the questions named by place, those of one mode together."""
        answers: dict[int, Answer] = {}
        for mode in MODES:
            mine = [i for i, wanted in modes.items() if wanted == mode]
            if mine:
                asked = [questions[i] for i in mine]
                found = [choices[i].found for i in mine]
                said = self._ask(asked, replace(options, mode=mode), found)
                answers.update(zip(mine, said, strict=True))
        return answers

    def _judged(self, choice: Choice, answer: Answer) -> float:
        """F1 expected of an answer; 1 where nothing can be known, so that no other is asked."""
        if self._calibration is None or not choice.expected:
            return 1.0
        return self._calibration.judged(answer.mode, choice.retrieval, answer)

    def _better(self, choice: Choice, judged: float) -> Mode | None:
        if self._calibration is None or not choice.expected:
            return None
        return better(choice.mode, judged, choice.expected, self._calibration.tolerance)

    def _best(self, choice: Choice, first: Answer, judged: float, second: Answer) -> Answer:
        """The answer that is judged higher, with the time both took."""
        again = self._judged(choice, second)
        kept, dropped = (second, first) if again > judged else (first, second)
        tried = f"auto: {first.mode}, judged F1 {judged:.2f}, then {second.mode}, {again:.2f}"
        if kept is first:
            # its note says what was expected; what counts now is what was judged
            kept = replace(first, note=_without(first.note, choice.note))
        return _noted(kept, tried, dropped.timings_ms)


def _others(mode: Mode, expected: Mapping[Mode, float]) -> str:
    return ", ".join(f"{other} {f1:.2f}" for other, f1 in expected.items() if other != mode)


def _without(note: str, part: str) -> str:
    return note.removesuffix(part).removesuffix("; ")


def _noted(answer: Answer, note: str, spent_ms: Mapping[str, float]) -> Answer:
    """``answer`` with one more note, and with what was spent besides in its timings."""
    timings = dict(answer.timings_ms)
    for stage, ms in spent_ms.items():
        timings[stage] = round(timings.get(stage, 0.0) + ms, 2)
    if "total" not in spent_ms:
        timings["total"] = round(timings.get("total", 0.0) + sum(spent_ms.values()), 2)
    notes = [part for part in (answer.note, note) if part]
    return replace(answer, note="; ".join(notes), timings_ms=timings)
