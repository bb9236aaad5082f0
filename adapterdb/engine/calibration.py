"""What an answer is worth before and after it is heard: expected F1 of each mode for a question.

A calibration is a handful of numbers fitted on a question set (``calibrating``): for each mode one
logistic function of what retrieval looks like, which speaks before anything is generated, and one
of that and of the answer's own confidence, which speaks afterwards. Kept as plain tensors in a
shared part. Knows no store and no model; who asks whom by these numbers is ``auto``'s business.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterdb.answers import MODES, Answer, Mode
from adapterdb.errors import InvalidInput
from adapterdb.records import Hit

KIND = "calibration"  # of the shared part
MORE = 2  # hits beyond k that are looked at, to see how far the best stand out
RETRIEVAL = ("similarity", "margin", "mean", "score", "question_words", "passage_words")
CONFIDENCE = ("logprob", "tokens")
_SCORE_UNIT = 1 / 61  # reciprocal rank fusion gives this for the first place in one list


def retrieval_features(question: str, hits: Sequence[Hit], k: int) -> list[float]:
    """What retrieval looks like, in the order of ``RETRIEVAL``.

    ``similarity`` of the best of the ``k`` hits used (cosine), its ``margin`` over the best of the
    other hits, the ``mean`` of the hits used, the fused ``score`` of the first (1 for first place
    in one list, 2 for both), and logarithms of lengths in words.

    Args:
        hits: best first; those of a rank beyond ``k``, which is not the first's, are only there to
            compare with.
        k: hits the answer would lean on.
    """
    used = [hit for hit in hits if hit.rank <= k]
    best = max(used, key=lambda hit: hit.similarity)
    others = [hit.similarity for hit in hits if hit is not best]
    return [
        best.similarity,
        best.similarity - max(others, default=0.0),
        sum(hit.similarity for hit in used) / len(used),
        hits[0].score / _SCORE_UNIT,
        math.log1p(len(question.split())),
        math.log1p(len(hits[0].text.split())),
    ]


def confidence_features(answer: Answer) -> list[float]:
    """How sure an answer was, in the order of ``CONFIDENCE``: mean log-probability, length."""
    return [answer.logprob or 0.0, math.log1p(answer.tokens_out)]


@dataclass(frozen=True)
class Calibration:
    """The fitted numbers; modes are in the order of ``MODES``.

    Args:
        before: ``(modes, F + 1)`` float64: weights of the retrieval features, then the bias.
        after: ``(modes, F + C + 1)`` float64: of those and of the confidence features.
        low, high: ``(F + C,)`` float64: what was seen in fitting; values beyond count as these.
        cost: ``(modes, 2)`` float64: mean prompt tokens and milliseconds of a question.
        tolerance: expected F1 given up for a cheaper mode.
    """

    before: Tensor
    after: Tensor
    low: Tensor
    high: Tensor
    cost: Tensor
    tolerance: float

    def expected(self, retrieval: Sequence[float]) -> dict[Mode, float]:
        """F1 to be expected of each mode, 0..1, before anything is generated."""
        return dict(zip(MODES, self._logistic(self.before, retrieval).tolist(), strict=True))

    def judged(self, mode: Mode, retrieval: Sequence[float], answer: Answer) -> float:
        """F1 to be expected of an answer of ``mode``, 0..1, now that it is there."""
        features = [*retrieval, *confidence_features(answer)]
        return float(self._logistic(self.after, features)[MODES.index(mode)])

    @property
    def milliseconds(self) -> dict[Mode, float]:
        """What a question costs in each mode."""
        return dict(zip(MODES, self.cost[:, 1].tolist(), strict=True))

    def _logistic(self, weights: Tensor, features: Sequence[float]) -> Tensor:
        """``(modes,)``: 1 / (1 + exp(-(w . x + bias))) of features within what was seen."""
        n = len(features)
        x = torch.tensor(features, dtype=torch.float64)
        x = torch.minimum(torch.maximum(x, self.low[:n]), self.high[:n])
        return torch.sigmoid(weights[:, :-1] @ x + weights[:, -1])

    def to_tensors(self) -> dict[str, Tensor]:
        """What the home keeps."""
        tolerance = torch.tensor(self.tolerance, dtype=torch.float64)
        tensors = {name: getattr(self, name) for name in _SHAPES}
        return {**tensors, "tolerance": tolerance}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Calibration:
        """What ``to_tensors`` wrote; InvalidInput, code ``old_calibration``, if it looks unlike."""
        fit = all(
            name in tensors and tuple(tensors[name].shape) == shape
            for name, shape in {**_SHAPES, "tolerance": ()}.items()
        )
        if not fit:
            raise InvalidInput(
                "the home's calibration was made by another version of AdapterDB",
                code="old_calibration",
                hint="run 'adb train calibration QUESTIONS' again",
            )
        numbers = {name: tensors[name].double() for name in _SHAPES}
        return cls(**numbers, tolerance=float(tensors["tolerance"]))

    @property
    def fingerprint(self) -> str:
        """sha256 of the numbers."""
        tensors = self.to_tensors()
        parts = [tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


_FEATURES = len(RETRIEVAL) + len(CONFIDENCE)
_SHAPES: Mapping[str, tuple[int, ...]] = {
    "before": (len(MODES), len(RETRIEVAL) + 1),
    "after": (len(MODES), _FEATURES + 1),
    "low": (_FEATURES,),
    "high": (_FEATURES,),
    "cost": (len(MODES), 2),
}
