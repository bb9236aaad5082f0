"""Tiny models, and key-value tasks that a delta can learn: what these tests begin from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.training.meta.objective import Lesson, MetaInitSettings, lesson_of
from adapterdb.training.start import Start, base_weight
from adapterdb.training.tasks import Task

KEYS = ("oak", "elm", "fir", "ash", "yew", "bay", "fig", "box")
VALUES = ("a", "b", "c", "d", "e", "f")


def key_value_tasks(first: int, count: int) -> list[Task]:
    """Questions like "oak?" about passages like "oak bbbb", every pair of them once."""
    found = []
    for i in range(first, first + count):
        key, value = KEYS[i % 8], VALUES[(i // 8 + i) % 6]
        passage = ("", f"{key}{i} " + value * 6)
        other = ("", f"{KEYS[(i + 3) % 8]}{i} " + VALUES[(i + 2) % 6] * 6)
        found.append(Task(str(i), f"{key}{i}", (value,), (passage, other), (0,)))
    return found


def sharp_base(folder: Path) -> BaseModel:
    """A tiny random model in float32 whose logits are wide enough to be sure of something."""
    base = load_base_model(str(folder), dtype="float32")
    with torch.no_grad():
        base.model.lm_head.weight *= 20
    return base


def adapted_model(base: BaseModel, rank: int = 2) -> AdaptedModel:
    """Every feed-forward linear of a tiny model adapted."""
    return AdaptedModel(
        base.model, plan_layout(LoraSpec(rank, 8.0, targets=("mlp",)), base.linears())
    )


def warm_start(adapted: AdaptedModel, alpha: float = 0.1, seed: int = 0) -> Start:
    """A start whose B is not zero, and whose alpha differs from number to number."""
    start = base_weight(adapted.layout, seed=seed, alpha=alpha)
    generator = torch.Generator().manual_seed(seed)
    for i in range(len(adapted.layout.sites)):
        adapted.layout.b(start.theta, i).normal_(0, 0.1, generator=generator)
    spread = torch.rand(adapted.layout.size, generator=generator)
    return Start(start.theta, start.alpha * (0.5 + spread))


def lessons(tasks: Sequence[Task], settings: MetaInitSettings, base: BaseModel) -> list[Lesson]:
    """One lesson of each task."""
    generator = torch.Generator().manual_seed(0)
    return [lesson_of([task], settings, base.encoder, generator) for task in tasks]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of every tensor of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
