"""A question set to a calibration: ask everything in every mode, score it, fit, cross-validate.

The fit is logistic regression on F1 as a soft label (a question counts as right with weight F1 and
as wrong with the rest), which keeps expectations within 0..1 and needs few numbers. How strongly it
is held back is chosen by cross-validation, and so is every quality that is reported: questions that
lean on one document stay in one fold. Knows no files; the score is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from adapterdb.answers import MODES, Answer, Mode
from adapterdb.engine.answer import Answerer
from adapterdb.engine.auto import Ask, Find, better, cheapest, within
from adapterdb.engine.calibration import (
    CONFIDENCE,
    MORE,
    RETRIEVAL,
    Calibration,
    confidence_features,
    retrieval_features,
)
from adapterdb.engine.plan import AskOptions
from adapterdb.errors import InvalidInput
from adapterdb.records import check_number

MIN_QUESTIONS = 20
FOLDS = 5
TOLERANCE = 0.02  # F1
CHUNK = 64  # questions asked in one mode before the next mode's turn
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of the regression
BINS = 10  # of the expected calibration error
Floats = NDArray[np.float64]
Score = Callable[[str, Sequence[str]], float]


class Question(NamedTuple):
    """A question and its accepted answers."""

    question: str
    answers: Sequence[str]


@dataclass(frozen=True)
class Measured:
    """Every question in every mode; those for which nothing is found are left out.

    Args:
        retrieval: ``(N, F)``.
        confidence: ``(modes, N, C)``.
        f1: ``(modes, N)``, 0..1.
        tokens, ms: ``(modes, N)``: prompt tokens, and milliseconds as if each took its share.
        groups: for each question the document it leans on most.
        skipped: questions left out.
    """

    retrieval: Floats
    confidence: Floats
    f1: Floats
    tokens: Floats
    ms: Floats
    groups: Sequence[str]
    skipped: int


@dataclass(frozen=True)
class Fitted:
    """A calibration and what cross-validation says of it, as JSON-able facts."""

    calibration: Calibration
    facts: dict[str, Any]


def calibrate(
    answerer: Answerer,
    questions: Sequence[Question],
    score: Score,
    options: AskOptions,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """The calibration of one home for questions asked as ``options`` say.

    Args:
        score, on_progress: see ``measure``.
        tolerance, seed: see ``fit``; the tolerance is 0 to 1.
    """
    check_number("tolerance", tolerance, 0.0, 1.0)
    k = answerer.planner.k(options)
    measured = measure(
        questions, partial(answerer.planner.find, more=MORE), k, answerer.ask_many,
        score, options, on_progress,
    )  # fmt: skip
    fitted = fit(measured, tolerance=tolerance, seed=seed)
    made_with = {"k": k, "composition": options.composition, "namespace": options.namespace}
    return Fitted(fitted.calibration, {**made_with, **fitted.facts})


def measure(
    questions: Sequence[Question],
    find: Find,
    k: int,
    ask: Ask,
    score: Score,
    options: AskOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Ask every question in every mode.

    Args:
        find, ask: see ``auto.Auto``.
        k: hits an answer leans on.
        score: F1 of an answer, 0..1, given the accepted ones.
        options: their mode is not used.
        on_progress: called with answers done and answers to come in all.

    Raises:
        InvalidInput: if something is found for fewer than 20 questions.
    """
    found = find([q.question for q in questions], options)
    used = [i for i, hits in enumerate(found) if within(hits, k)]
    if len(used) < MIN_QUESTIONS:
        raise InvalidInput(
            f"something relevant is stored for {len(used)} of {len(questions)} questions;"
            f" a calibration needs {MIN_QUESTIONS} or more",
            hint="ingest the documents they are about, or give more questions",
        )
    answers, ms = _ask_all(questions, used, found, k, ask, options, on_progress)
    hits = [[entry.hit for entry in found[i]] for i in used]
    asked = [questions[i].question for i in used]
    retrieval = [retrieval_features(q, h, k) for q, h in zip(asked, hits, strict=True)]
    return Measured(
        retrieval=np.array(retrieval),
        confidence=np.array([[confidence_features(a) for a in row] for row in answers]),
        f1=np.array([
            [score(a.text, questions[i].answers) for i, a in zip(used, row, strict=True)]
            for row in answers
        ]),
        tokens=np.array([[float(a.tokens_in) for a in row] for row in answers]),
        ms=np.array(ms),
        groups=[f"{h[0].namespace}/{h[0].document}" for h in hits],
        skipped=len(questions) - len(used),
    )  # fmt: skip


def _ask_all(
    questions: Sequence[Question],
    used: Sequence[int],
    found: Sequence[Any],
    k: int,
    ask: Ask,
    options: AskOptions,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[list[Answer]], list[list[float]]]:
    """Answers and milliseconds by mode and question; modes take turns, so that all meet alike."""
    answers: list[list[Answer]] = [[] for _ in MODES]
    ms: list[list[float]] = [[] for _ in MODES]
    for first in range(0, len(used), CHUNK):
        part = used[first : first + CHUNK]
        for m, mode in enumerate(MODES):
            began = time.perf_counter()
            asked = [questions[i].question for i in part]
            hits = [within(found[i], k) for i in part]
            answers[m] += ask(asked, replace(options, mode=mode), hits)
            ms[m] += [1e3 * (time.perf_counter() - began) / len(part)] * len(part)
            if on_progress is not None:
                on_progress(sum(map(len, answers)), len(MODES) * len(used))
    return answers, ms


def fit(measured: Measured, *, tolerance: float = TOLERANCE, seed: int = 0) -> Fitted:
    """The calibration of what was measured.

    Args:
        tolerance: expected F1 given up for a cheaper mode.
        seed: of the folds, where there are too few documents to keep their questions together.
    """
    known = measured.retrieval
    heard = [np.hstack([known, c]) for c in measured.confidence]
    folds = list(_folds(measured.groups, seed))
    before = [_chosen(known, f1, folds) for f1 in measured.f1]
    after = [_chosen(x, f1, folds) for x, f1 in zip(heard, measured.f1, strict=True)]
    every = np.vstack(heard)
    cost = np.stack([measured.tokens.mean(1), measured.ms.mean(1)], axis=1)
    calibration = Calibration(
        before=torch.from_numpy(np.stack([w.weights for w in before])),
        after=torch.from_numpy(np.stack([w.weights for w in after])),
        low=torch.from_numpy(every.min(0)),
        high=torch.from_numpy(every.max(0)),
        cost=torch.from_numpy(cost),
        tolerance=tolerance,
    )
    simulated = _simulated(measured, before, after, calibration)
    facts = {
        "questions": len(known),
        "skipped": measured.skipped,
        "seed": seed,
        "tolerance": tolerance,
        "features": {"before": list(RETRIEVAL), "after": [*RETRIEVAL, *CONFIDENCE]},
        "f1": {**_by_mode(measured.f1.mean(1)), "auto": simulated.pop("f1")},
        "auto": simulated,
        "prompt_tokens": _by_mode(cost[:, 0]),
        "ms": _by_mode(cost[:, 1]),
        "before": _quality(before, measured.f1),
        "after": _quality(after, measured.f1),
    }
    return Fitted(calibration, facts)


class _Function(NamedTuple):
    """A fitted function, its strength, and what it says of each question when that is held out."""

    weights: Floats
    strength: float
    held_out: Floats


def _chosen(x: Floats, f1: Floats, folds: Sequence[tuple[Any, Any]]) -> _Function:
    """The function of the strength whose held-out predictions err least (mean square)."""

    def held_out(strength: float) -> Floats:
        said = np.empty(len(f1))
        for learned, aside in folds:
            weights = _logistic(x[learned], f1[learned], strength)
            said[aside] = 1 / (1 + np.exp(-(x[aside] @ weights[:-1] + weights[-1])))
        return said

    tried = {strength: held_out(strength) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda s: float(np.square(tried[s] - f1).mean()))
    return _Function(_logistic(x, f1, best), best, tried[best])


def _logistic(x: Floats, f1: Floats, strength: float) -> Floats:
    """``(F + 1,)``: weights and bias for features as they are.

    Labels are drawn in from 0 and 1 by as much as one more question of each kind would (Platt
    1999), so that a mode that is never right has finite weights, too.
    """
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here

    centre, spread = x.mean(0), x.std(0)
    spread[spread < 1e-9] = 1.0
    z = (x - centre) / spread
    n = len(f1)
    soft = (f1 * n + 1) / (n + 2)
    model = LogisticRegression(C=strength, max_iter=1000)
    labels = np.repeat([1, 0], n)
    model.fit(np.vstack([z, z]), labels, sample_weight=np.hstack([soft, 1 - soft]))
    weights = model.coef_[0] / spread
    return np.append(weights, model.intercept_[0] - weights @ centre)


def _folds(groups: Sequence[str], seed: int) -> Iterator[tuple[Any, Any]]:
    """Rows to learn from and rows set aside."""
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.zeros(len(groups))
    if len(set(groups)) >= FOLDS:
        return iter(GroupKFold(FOLDS).split(rows, groups=np.array(groups)))
    return iter(KFold(FOLDS, shuffle=True, random_state=seed).split(rows))


def _simulated(
    measured: Measured,
    before: Sequence[_Function],
    after: Sequence[_Function],
    calibration: Calibration,
) -> dict[str, Any]:
    """F1 of auto had each question been held out, and whose answers it would have given."""
    asked: list[Mode] = []
    scores: list[float] = []
    twice = 0
    for n in range(len(measured.retrieval)):
        expected = {mode: float(before[m].held_out[n]) for m, mode in enumerate(MODES)}
        judged = {mode: float(after[m].held_out[n]) for m, mode in enumerate(MODES)}
        mode = cheapest(expected, calibration.milliseconds, calibration.tolerance)
        other = better(mode, judged[mode], expected, calibration.tolerance)
        twice += other is not None
        if other is not None and judged[other] > judged[mode]:
            mode = other
        asked.append(mode)
        scores.append(float(measured.f1[MODES.index(mode), n]))
    shares = {mode: asked.count(mode) / len(asked) for mode in MODES}
    return {"f1": float(np.mean(scores)), "shares": shares, "asked_twice": twice / len(asked)}


def _quality(functions: Sequence[_Function], f1: Floats) -> dict[str, Any]:
    """Of held-out expectations: Brier score, that of the mean alone, calibration error, C."""
    return {
        mode: {
            "brier": float(np.square(function.held_out - f1[m]).mean()),
            "brier_of_mean": float(f1[m].var()),
            "ece": calibration_error(function.held_out, f1[m]),
            "strength": function.strength,
        }
        for (m, mode), function in zip(enumerate(MODES), functions, strict=True)
    }


def calibration_error(said: Floats, f1: Floats) -> float:
    """Expected calibration error: ``|mean said - mean F1|`` in tenths of ``said``, by their size.

    Args:
        said: ``(N,)`` expectations, 0..1; f1: ``(N,)`` what came of them.
    """
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    gaps = [
        abs(said[bins == b].mean() - f1[bins == b].mean()) * (bins == b).mean() for b in set(bins)
    ]
    return float(np.sum(gaps))


def _by_mode(values: Floats) -> dict[str, float]:
    return dict(zip(MODES, values.tolist(), strict=True))
