"""Three tasks a token can tell apart, and deltas for them: what gate tests begin from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.training.gate.objective import GateSettings
from adapterdb.training.gate.run import Expert
from adapterdb.training.schedule import Schedule
from adapterdb.training.tasks import Task

NAMES = ("digits", "lower", "upper")
_LETTERS = {"digits": "0123456789", "lower": "abcdefghij", "upper": "ABCDEFGHIJ"}
QUICK = GateSettings(
    "tiny", gate_weight=1.0, init_scale=0.1, lr=2e-2, batch=8, at_once=4, max_steps=8,
    evaluate_every=4, schedule=Schedule("constant", warm_up=0.0), clip=1.0,
)  # fmt: skip


def letter_tasks(first: int, count: int, names: Sequence[str] = NAMES) -> list[Task]:
    """``count`` questions of each task, written in letters of its own."""
    found = []
    for name in names:
        letters = _LETTERS[name]
        for i in range(first, first + count):
            digits = f"{i * 7_919_777 % 10**12:012d}{i:04d}"
            text = "".join(letters[int(digit)] for digit in digits)
            found.append(Task(f"{name}{i}", text, (letters[i % 10],), (), (), name))
    return found


def experts_of(adapted: AdaptedModel, seed: int = 0, names: Sequence[str] = NAMES) -> list[Expert]:
    """A random delta of each task."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(names), adapted.layout.size, generator=generator) * 0.1
    return [Expert(name, f"id-{name}", row) for name, row in zip(names, rows, strict=True)]


def stacked(experts: Sequence[Expert]) -> Tensor:
    """Their rows ``(N, P)``."""
    return torch.stack([expert.row for expert in experts])
