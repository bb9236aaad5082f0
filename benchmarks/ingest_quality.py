"""Whether bfloat16 changes what deltas answer; the part of bench_ingest behind ``--quality``.

One delta for the gold passage of each question, made in float32 (equal to a serial loop) and in
bfloat16, by the recipes gradient and rg on mini; then the question alone, greedily, with its delta.
Token F1 of both, and the mean difference with its paired bootstrap interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import greedy_answers
from adapterdb.evaluation.metrics import squad_f1
from adapterdb.layout import plan_layout
from adapterdb.training import bank
from adapterdb.training.objective import TrainingPassage
from adapterdb.training.recipes import get_recipe
from adapterdb.training.start import Start, base_weight, load_meta_init
from adapterdb.training.tasks import Task, read_tasks

AT_ONCE = 32
RESAMPLES = 10_000


def quality(path: Path, n: int) -> dict[str, Any]:
    """Figures of both recipes on the first ``n`` questions; printed as they come."""
    base = load_base_model("mini", dtype="float32")
    tasks = [task for task in read_tasks(path, n) if task.gold]
    found: dict[str, Any] = {"questions": len(tasks), "file": path.name}
    for name in ("gradient", "rg"):
        found[name] = entry = _compare(base, tasks, name)
        low, high = entry["interval"]
        print(
            f"{name}: {len(tasks)} questions, F1 without delta {entry['base']:.2f}, float32"
            f" {entry['float32']:.2f}, bfloat16 {entry['bfloat16']:.2f}, difference"
            f" {entry['difference']:+.2f} [{low:+.2f}, {high:+.2f}], same answer"
            f" {entry['same answers']:.1%}",
            flush=True,
        )
    return found


def _compare(base: BaseModel, tasks: list[Task], name: str) -> dict[str, Any]:
    recipe = get_recipe(name, has_meta_init=True)
    path = base.meta_init_path
    if recipe.produces == "gradient" and path is not None:
        layout, start = load_meta_init(path)
    else:
        layout = plan_layout(recipe.lora, base.linears())
        start = base_weight(layout)
    adapted = AdaptedModel(base.model, layout)
    said: dict[str, list[str]] = {"base": [], "float32": [], "bfloat16": []}
    for first in range(0, len(tasks), AT_ONCE):
        part = tasks[first : first + AT_ONCE]
        passages = [TrainingPassage(*task.passages[task.gold[0]]) for task in part]
        said["base"] += _answers(base, adapted, part, None)
        for dtype in ("float32", "bfloat16"):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                made = bank.fit(adapted, base.encoder, passages, recipe, start).rows
            said[dtype] += _answers(base, adapted, part, _used(made, recipe.produces, start))
    adapted.remove()
    scores = {
        kind: torch.tensor([100 * squad_f1(a, t.answers) for a, t in zip(mine, tasks, strict=True)])
        for kind, mine in said.items()
    }
    off = (scores["bfloat16"] - scores["float32"]).double()
    draws = torch.randint(
        len(off), (RESAMPLES, len(off)), generator=torch.Generator().manual_seed(0)
    )
    means = off[draws].mean(-1)
    return {
        **{kind: float(score.mean()) for kind, score in scores.items()},
        "difference": float(off.mean()),
        "interval": [float(means.quantile(q)) for q in (0.025, 0.975)],
        "same answers": sum(map(str.__eq__, said["float32"], said["bfloat16"])) / len(tasks),
    }


def _used(made: Tensor, produces: str, start: Start) -> Tensor:
    return start.step(made) if produces == "gradient" else made


def _answers(
    base: BaseModel, adapted: AdaptedModel, tasks: list[Task], rows: Tensor | None
) -> list[str]:
    """What is said to each question alone, each with its own row, in float32."""
    prompts = [base.encoder.blind(task.question) for task in tasks]
    return greedy_answers(adapted, base.encoder, rows, prompts)
