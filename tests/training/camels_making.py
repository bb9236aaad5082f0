"""Tiny models in float64 with everything a CaMeLS test needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from adapterdb.training.camels.space import Rows
from adapterdb.training.objective import TrainingPassage
from adapterdb.training.start import Start, base_weight

PASSAGES = [
    TrainingPassage("Boats", "Mara rowed to Oste.", qa=(("Who rowed?", "Mara"),)),
    TrainingPassage("", "Ivo has a red hat.", qa=(("What has Ivo?", "a hat"), ("Who?", "Ivo"))),
    TrainingPassage("Hills", "Nine farms lie there.", qa=(("How many farms?", "nine"),)),
    TrainingPassage("", "Snow fell on Asker.", qa=(("What fell?", "snow"),)),
]


@dataclass(frozen=True)
class Tiny:
    """A base model and LoRA rows over it that are not at a standstill."""

    base: BaseModel
    layout: DeltaLayout
    start: Start
    rows: Rows


def tiny(tiny_folder: Callable[[str], Path], kind: str = "bert", *, double: bool = True) -> Tiny:
    """A tiny model, in float64 where ``double``; every number of the start is drawn."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    if double:
        base.model.double()
    layout = plan_layout(LoraSpec(rank=2, alpha=4.0, layers="1-1"), base.linears())
    drawn = torch.randn(layout.size, generator=torch.Generator().manual_seed(3)) * 0.1
    start = Start(base_weight(layout).theta + drawn, torch.full((layout.size,), 0.5))
    if double:
        start = Start(start.theta.double(), start.alpha.double())
    return Tiny(base, layout, start, Rows(AdaptedModel(base.model, layout), start))
