"""Fitting deltas on a GPU against a serial peft loop: Llama-3.2-1B's shapes, random weights.

    one at a time    recipe prag: one sequence a step, loss on all tokens
    full batch       recipe prag-fast: all five sequences a step, loss on answers

Both sides in bfloat16 weights, the same steps in the same order; deltas of rank 2 in all MLPs. The
serial loop does a few documents, ours N at once; documents per second by wall clock after a
warm-up, and the most device memory ours took. Texts are random tokens in PRAG's form (passage
first). Prints one JSON line a configuration.

    python gpu/ingest.py
    python gpu/ingest.py --tiny --device cpu
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.layout import DeltaLayout, plan_layout
from adapterdb.training import bank
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import Recipe, get_recipe
from adapterdb.training.start import Start, base_weight

PASSAGE, QUESTION, ANSWER = 70, 22, 4  # tokens
Data = list[list[TokenSequence]]


def llama(device: torch.device, tiny: bool) -> Any:
    """Random weights in the shapes of Llama-3.2-1B, bfloat16; ``tiny``: two layers, float32."""
    torch.manual_seed(0)
    hidden, layers, words = (64, 2, 500) if tiny else (2048, 16, 128_256)
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=4 if tiny else 32, num_key_value_heads=2 if tiny else 8,
        vocab_size=words, max_position_embeddings=1024, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    with device:
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def documents(count: int, words: int, mask: str) -> Data:
    """PRAG's five sequences of ``count`` passages of random tokens."""
    draw = torch.Generator().manual_seed(1)

    def some(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, words, (n,), generator=draw).tolist())

    found = []
    for _ in range(count):
        texts, asked = [some(PASSAGE), some(PASSAGE)], [some(QUESTION) for _ in range(3)]
        prompts = [text + question for question in asked[:2] for text in texts] + [asked[2]]
        found.append(
            [TokenSequence(p + some(ANSWER), len(p) if mask == "answer" else 0) for p in prompts]
        )
    return found


def serial(model: Any, layout: DeltaLayout, start: Start, recipe: Recipe, data: Data) -> Tensor:
    """One passage after the other: peft, torch's fused AdamW over the factors in float32."""
    device = next(model.parameters()).device
    config = peft.LoraConfig(
        r=layout.rank, lora_alpha=layout.alpha, lora_dropout=0.0,
        target_modules=[site.name for site in layout.sites],
    )  # fmt: skip
    wrapped = peft.get_peft_model(model, config)
    tuned = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    name = "base_model.model.{}.lora_{}.default.weight"
    rows = []
    for sequences in data:
        with torch.no_grad():
            for site, factors in layout.unpack(start.theta).items():
                for x, value in zip("AB", factors, strict=True):
                    tuned[name.format(site, x)].copy_(value)
        optimizer = torch.optim.AdamW(
            tuned.values(), lr=recipe.lr, weight_decay=recipe.weight_decay,
            fused=device.type == "cuda",
        )  # fmt: skip
        size = recipe.batch or len(sequences)
        for _ in range(recipe.epochs):
            for first in range(0, len(sequences), size):
                ids, mask, labels = pad(sequences[first : first + size], device)
                logits = wrapped(input_ids=ids, attention_mask=mask, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        made = {s.name: tuple(tuned[name.format(s.name, x)].cpu() for x in "AB")
                for s in layout.sites}  # fmt: skip
        with torch.no_grad():
            rows.append(layout.pack(made, torch.zeros(layout.size)))  # type: ignore[arg-type]
    wrapped.unload()
    return torch.stack(rows)


@contextmanager
def hooked(model: Any, layout: DeltaLayout) -> Iterator[AdaptedModel]:
    """The model with our hooks, without them afterwards."""
    adapted = AdaptedModel(model, layout)
    yield adapted
    adapted.remove()


def seconds(run: Callable[[], Any], device: torch.device, rounds: int) -> list[float]:
    """Wall seconds of ``run``, after one that is not counted."""
    found = []
    for turn in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Print the set-up, then a line for each recipe and N."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(options.device)
    model = llama(device, options.tiny)
    on = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    print(json.dumps({"device": on, "parameters": model.num_parameters(), **versions}))
    linears = [
        (name, m.in_features, m.out_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    ]
    counts, alone = ((2, 4), 1) if options.tiny else ((8, 32, 64, 128), 4)
    for recipe_name, target in (("prag", 20), ("prag-fast", 10)):
        recipe = get_recipe(recipe_name, has_meta_init=False)
        layout = plan_layout(recipe.lora, linears)
        start = base_weight(layout)
        data = documents(max(counts), model.config.vocab_size, recipe.mask)
        peer = seconds(
            lambda: serial(model, layout, start, recipe, data[:alone]),  # noqa: B023 - run here
            device,
            options.rounds,
        )
        peer_each = statistics.median(peer) / alone
        for count in counts:
            with hooked(model, layout) as adapted:
                rows = start.theta.to(device).expand(count, -1)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                mine = seconds(
                    lambda: bank.train(adapted, rows, data[:count], recipe),  # noqa: B023
                    device,
                    options.rounds,
                )
            each = statistics.median(mine) / count
            entry: dict[str, Any] = {
                "recipe": recipe_name, "N": count, "serial_ms": 1e3 * peer_each,
                "ours_ms": 1e3 * each, "ratio": peer_each / each,
                "range": [min(peer) / alone / (max(mine) / count),
                          max(peer) / alone / (min(mine) / count)],
                "target": target,
            }  # fmt: skip
            if device.type == "cuda":
                entry["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
