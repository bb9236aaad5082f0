"""A whole decode step on a GPU: Llama-3.2-1B's shapes, random weights, each question its own top 3.

    base     the model without deltas
    ours     the same model acting with 3 deltas a row at every MLP linear
    peft     adapter_names, one resident adapter a row that already holds the row's 3 deltas

The base model and ours decode with ``engine.steps.Fixed``, one CUDA graph a step; peft, whose step
asks Python which adapter is whose, eagerly over a cache that grows. All in bfloat16, equal factors
on both sides. Wall time of a step by medians; the share of tokens that are peft's own while both
are fed the same ones (bfloat16 sums differ in order). Prints one JSON line a configuration, and
last one of everything, which it also writes to engine.json in --out or $OUT.

    python gpu/engine.py
    python gpu/engine.py --smoke     a tiny model in float32 on a CPU; no figures
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from ingest import llama
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.engine.steps import Fixed, Growing, Steps
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout

TOP = 3
Factors = list[tuple[Tensor, Tensor]]


class Named:
    """A peft model that is told which adapter each row wants."""

    def __init__(self, model: Any, names: list[str]) -> None:
        self.model, self.names, self.config = model, names, model.config

    def parameters(self) -> Iterator[Tensor]:
        """Of the base model and all adapters."""
        return self.model.parameters()  # type: ignore[no-any-return]

    def __call__(self, **inputs: Any) -> Any:
        """One forward."""
        return self.model(**inputs, adapter_names=self.names)


def mixtures(layout: DeltaLayout, questions: int, device: torch.device, dtype: Any) -> Factors:
    """TOP deltas of each question side by side: a site's ``a (B, 3R, H1)``, ``b (B, 3R, H2)``."""
    draw = torch.Generator(device).manual_seed(1)

    def some(width: int) -> Tensor:
        shape = (questions, TOP * layout.rank, width)
        return (torch.randn(shape, generator=draw, device=device) * width**-0.5).to(dtype)

    return [(some(site.in_features), some(site.out_features)) for site in layout.sites]


@contextmanager
def acting(model: Any, layout: DeltaLayout, factors: Factors | None) -> Iterator[Any]:
    """The model with our hooks."""
    adapted = AdaptedModel(model, layout)
    with adapted.using(factors) as found:
        yield found
    adapted.remove()


@contextmanager
def peers(model: Any, layout: DeltaLayout, factors: Factors) -> Iterator[Named]:
    """One peft adapter for each row, of the row's factors."""
    rank, names = TOP * layout.rank, [f"row{row}" for row in range(len(factors[0][0]))]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0,
        target_modules=[site.name for site in layout.sites],
    )  # fmt: skip
    wrapped = peft.get_peft_model(model, config, names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    with torch.no_grad():
        for site, (a, b) in zip(layout.sites, factors, strict=True):
            linear = wrapped.base_model.model.get_submodule(site.name)
            for row, name in enumerate(names):
                linear.lora_A[name].weight.copy_(a[row])
                linear.lora_B[name].weight.copy_(b[row].T)
    yield Named(wrapped.eval(), names)
    wrapped.unload()


def decoded(
    steps: Steps, prompts: Sequence[Sequence[int]], given: Tensor | None, tokens: int
) -> tuple[Tensor, float]:
    """Best tokens ``(tokens, B)`` of each step, fed ``given`` or its own, and seconds of a step."""
    best = [steps.prompt(prompts).argmax(-1)]
    took = []
    for turn in range(1, tokens):
        fed = best[-1] if given is None else given[turn - 1]
        _wait(fed.device)
        began = time.perf_counter()
        logits = steps.step(fed)
        _wait(fed.device)
        took.append(time.perf_counter() - began)
        best.append(logits.argmax(-1))
    return torch.stack(best), statistics.median(took[len(took) // 4 :])  # later ones replay a graph


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compared(model: Any, rank: int, questions: int, tokens: int, with_peft: bool) -> dict[str, Any]:
    """Step times of all sides, interleaved twice."""
    device, dtype = next(model.parameters()).device, model.dtype
    linears = [
        (name, m.in_features, m.out_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    ]
    layout = plan_layout(LoraSpec(rank=rank), linears)
    factors = mixtures(layout, questions, device, dtype)
    draw = torch.Generator().manual_seed(2)
    prompts = torch.randint(3, model.config.vocab_size, (questions, 32), generator=draw).tolist()
    times: dict[str, list[float]] = {"base": [], "ours": []}
    for _ in range(2):
        for name, some in (("base", None), ("ours", factors)):
            with acting(model, layout, some) as found:
                best, took = decoded(Fixed(found, tokens), prompts, None, tokens)
            times[name].append(took)
    result: dict[str, Any] = {"rank": rank, "questions": questions}
    if with_peft:
        with peers(model, layout, factors) as named:
            theirs, took = decoded(Growing(named), prompts, best, tokens)
        times["peft"] = [took]
        result["tokens_as_peft"] = float((theirs == best).float().mean())
    step = {name: min(found) for name, found in times.items()}
    result |= {f"{name}_ms": 1e3 * took for name, took in step.items()}
    result["overhead"] = step["ours"] / step["base"] - 1
    if with_peft:
        result["times_peft"] = step["peft"] / step["ours"]
    return result


def main() -> None:
    """Print and keep everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device("cpu" if options.smoke else "cuda")
    model = llama(device, options.smoke)
    on = "cpu" if options.smoke else torch.cuda.get_device_name()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    found: dict[str, Any] = {"device": on, "smoke": options.smoke, "top": TOP, **versions}
    print(json.dumps(found), flush=True)
    cases = [(2, 3, True)] if options.smoke else [(2, 64, True), (8, 64, False), (2, 1, False)]
    found["steps"] = []
    for rank, questions, with_peft in cases:
        line = compared(model, rank, questions, 6 if options.smoke else 48, with_peft)
        found["steps"].append(line)
        print(json.dumps(line), flush=True)
    text = json.dumps(found)
    if options.out is not None:
        (Path(options.out) / "engine.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
