"""The main path against peft, on the same work in one run.

    (a) activate a top-3 mixture from disk: ours against peft's load x 3 +
        add_weighted_adapter("cat") + set + delete, and against three resident adapters
        overwritten by peft's hotswap
    (b) 16 questions, each with its own top-3 from disk, 32 prompt tokens, 16 new tokens: one batch
        of ours against the sequential peft loop
    (c) fit 32 passages: ours in one bank against a serial peft loop with the same objective

Variants are interleaved in one process; times are medians of process CPU seconds (the machines are
shared). (a) and (b) run on a random Llama of hidden size 384; (c) on mini and real paragraphs.

    python benchmarks/bench_path.py [--rounds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import peft
import torch
import transformers
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import Generation, Mixture
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import StopRules, decode
from adapterdb.engine.runtime import Registered, Runtime
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from adapterdb.peft_format import write_peft
from adapterdb.records import Document, Passage
from adapterdb.store.rows import NewDocument, NewPassage, StoreInfo
from adapterdb.store.store import Store
from adapterdb.training import bank
from adapterdb.training.loss import pad
from adapterdb.training.objective import TrainingPassage, sequences_of
from adapterdb.training.recipes import get_recipe
from adapterdb.training.start import Start, base_weight

DELTAS = 96
QUESTIONS, PROMPT, NEW = 16, 32, 16
PASSAGES = 32
CORPUS = Path(__file__).parents[1] / "examples" / "corpus"


@dataclass
class Clock:
    """CPU seconds of named variants."""

    seconds: dict[str, list[float]]

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block under ``name``."""
        began = time.process_time()
        yield
        self.seconds.setdefault(name, []).append(time.process_time() - began)

    def median(self, name: str) -> float:
        """Median seconds of a variant."""
        return statistics.median(self.seconds[name])


def small_llama() -> Any:
    """Random Llama: hidden 384, 8 layers, 6 heads (2 for keys), intermediate 1024, 8,192 words."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, vocab_size=8192, max_position_embeddings=512,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


class Setting:
    """The same random rank-2 deltas, in bfloat16, in a store of ours and in peft folders."""

    def __init__(self, folder: Path) -> None:
        self.model = small_llama()
        linears = [
            (n, m.in_features, m.out_features)
            for n, m in self.model.named_modules()
            if isinstance(m, torch.nn.Linear)
        ]
        self.layout = plan_layout(LoraSpec(rank=2, alpha=32.0, targets=("mlp",)), linears)
        rows = (torch.randn(DELTAS, self.layout.size) * 0.02).bfloat16()
        self.folders = [folder / f"peft{i}" for i in range(DELTAS)]
        for path, row in zip(self.folders, rows, strict=True):
            write_peft(path, row, self.layout, base_model="random")
        self.store, self.registered = stored(folder / "home", self.layout, rows)
        self.ids = list(self.registered)
        base = BaseModel(
            "random",
            folder,
            self.model,
            None,
            None,
            torch.device("cpu"),
            torch.float32,  # type: ignore[arg-type]
        )
        zero = Start(torch.zeros(self.layout.size), torch.zeros(self.layout.size))
        self.runtime = Runtime(
            base, self.layout, zero, slots=3 * QUESTIONS, dtype=torch.bfloat16,
            load=self.store.read_into,
        )  # fmt: skip

    def top3(self, question: int) -> tuple[list[str], list[Path]]:
        """Ids and folders of the three deltas of a question."""
        picks = [(3 * question + j) % DELTAS for j in range(3)]
        return [self.ids[i] for i in picks], [self.folders[i] for i in picks]


def stored(home: Path, layout: DeltaLayout, rows: Tensor) -> tuple[Store, dict[str, Registered]]:
    """A store that holds the rows, and where each lies."""
    info = StoreInfo("base", "embedder", 8, layout, dtype="bfloat16")
    store = Store.create(home, info)
    documents = []
    for i, ref in enumerate(store.write_rows(rows)):
        vector = np.eye(8, dtype=np.float32)[i % 8]
        passage = NewPassage(Passage(0, 0, 1, "x", 1), vector, ref, "lora", "rg")
        documents.append(NewDocument("default", Document(f"d{i}", "x"), "", f"k{i}", (passage,)))
    ids = [store.deltas(document.id)[0].id for document in store.commit(documents)]
    return store, {
        i: Registered("lora", ref) for i, ref in zip(ids, store.rows_of(ids), strict=True)
    }


def activation(setting: Setting, clock: Clock, rounds: int) -> dict[str, float]:
    """(a): the logits of ours, of cat and of hotswap are compared in every round."""
    ids = torch.randint(0, 8192, (1, 8))
    cat = peft.PeftModel.from_pretrained(
        small_llama(), str(setting.folders[0]), adapter_name="keep"
    )
    swap = peft.PeftModel.from_pretrained(small_llama(), str(setting.folders[0]), adapter_name="s0")
    for name in ("s1", "s2"):
        swap.load_adapter(str(setting.folders[0]), adapter_name=name)
    swap.base_model.set_adapter(["s0", "s1", "s2"])
    worst = 0.0
    with contextlib.redirect_stderr(io.StringIO()):
        for question in range(rounds):
            names, folders = setting.top3(question)
            mixture = Mixture(tuple((name, 1.0) for name in names))

            def ours(name: str) -> Any:
                setting.runtime.pool.forget(names)  # noqa: B023 - called in this round only
                with clock.measure(name):
                    context = setting.runtime.acting([mixture], setting.registered)  # noqa: B023
                    model = context.__enter__()
                logits = model(ids).logits if name != "ours" else None
                context.__exit__(None, None, None)
                return logits

            ours("ours, first read")  # checks sha256 and finiteness
            for _ in range(8):
                ours("ours")
            mine = ours("ours, after a forward")
            for _ in range(2):
                with clock.measure("peft cat"):
                    for j, path in enumerate(folders):
                        cat.load_adapter(str(path), adapter_name=f"a{j}")
                    cat.add_weighted_adapter(["a0", "a1", "a2"], [1.0] * 3, "mix", "cat")
                    cat.set_adapter("mix")
                    for name in ("a0", "a1", "a2"):
                        cat.delete_adapter(name)
                theirs = cat(ids).logits
                with clock.measure("peft cat, delete"):
                    cat.delete_adapter("mix")
            for _ in range(4):
                with clock.measure("peft hotswap"):
                    for j, path in enumerate(folders):
                        hotswap_adapter(swap, str(path), adapter_name=f"s{j}", torch_device="cpu")
            for logits in (theirs, swap(ids).logits):
                worst = max(worst, float((mine - logits).detach().abs().max()))
    ms = {name: 1e3 * clock.median(name) for name in clock.seconds}
    cat_ms = ms["peft cat"] + ms["peft cat, delete"]
    return {
        "ours_ms": ms["ours"],
        "ours_after_a_forward_ms": ms["ours, after a forward"],
        "ours_first_read_ms": ms["ours, first read"],
        "peft_cat_ms": cat_ms,
        "peft_hotswap_ms": ms["peft hotswap"],
        "ratio_cat": cat_ms / ms["ours"],
        "ratio_cat_after_a_forward": cat_ms / ms["ours, after a forward"],
        "ratio_cat_first_read": cat_ms / ms["ours, first read"],
        "ratio_hotswap": ms["peft hotswap"] / ms["ours"],
        "ratio_hotswap_after_a_forward": ms["peft hotswap"] / ms["ours, after a forward"],
        "max_logit_difference": worst,
    }


def questions(setting: Setting, clock: Clock, rounds: int) -> dict[str, float]:
    """(b): greedy tokens of both ways are compared."""
    prompts = torch.randint(0, 8192, (QUESTIONS, PROMPT)).tolist()
    never = StopRules(frozenset(), (), str)
    judge = peft.PeftModel.from_pretrained(
        small_llama(), str(setting.folders[0]), adapter_name="keep"
    )
    same = True
    for _ in range(rounds):
        picks = [setting.top3(q) for q in range(QUESTIONS)]
        mixtures = [Mixture(tuple((name, 1.0) for name in names)) for names, _ in picks]
        setting.runtime.pool.forget(setting.ids)
        with clock.measure("ours"), setting.runtime.acting(mixtures, setting.registered) as model:
            steps = list(decode(model, prompts, Generation(), never, NEW))
        ours = [[step[row] for step in steps] for row in range(QUESTIONS)]
        theirs = []
        with clock.measure("peft sequential"):
            for prompt, (_, folders) in zip(prompts, picks, strict=True):
                for j, path in enumerate(folders):
                    judge.load_adapter(str(path), adapter_name=f"a{j}")
                judge.add_weighted_adapter(["a0", "a1", "a2"], [1.0] * 3, "mix", "cat")
                judge.set_adapter("mix")
                given = torch.tensor([prompt])
                said = judge.generate(
                    input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
                    max_new_tokens=NEW, eos_token_id=None, pad_token_id=0,
                )  # fmt: skip
                theirs.append(said[0, PROMPT:].tolist())
                for name in ("mix", "a0", "a1", "a2"):
                    judge.delete_adapter(name)
        same = same and ours == theirs
    return {
        "ours_s": clock.median("ours"),
        "peft_sequential_s": clock.median("peft sequential"),
        "ratio": clock.median("peft sequential") / clock.median("ours"),
        "tokens_equal": float(same),
    }


def passages() -> list[TrainingPassage]:
    """The first 32 paragraphs of the example corpus."""
    texts = []
    for path in sorted(CORPUS.glob("*.md")):
        body = path.read_text(encoding="utf-8").split("\n---\n", 1)[1]
        texts += [
            TrainingPassage(path.stem.replace("-", " "), part.strip())
            for part in body.split("\n\n")
            if len(part) > 200
        ]
    return texts[:PASSAGES]


def ingest(clock: Clock, rounds: int) -> dict[str, float]:
    """(c): recipe rg (rank 2, all MLP linears, 3 epochs of AdamW), rows compared in float32."""
    recipe = get_recipe("rg", has_meta_init=False)
    data = passages()
    exact = load_base_model("mini", dtype="float32")
    layout = plan_layout(recipe.lora, exact.linears())
    start = base_weight(layout)
    makers: dict[str, Callable[[], Tensor]] = {
        "serial peft": lambda: serial_peft(exact, layout, start, data),
        "ours float32": lambda: in_batches(exact, layout, start, data),
        "ours bfloat16": lambda: in_bfloat16(exact, layout, start, data),
    }
    rows = {}
    for _ in range(rounds):
        for name, make in makers.items():
            with clock.measure(name):
                rows[name] = make()
    judge = AdaptedModel(exact.model, layout)
    sequences = [sequences_of(p, recipe, exact.encoder) for p in data]
    after = {name: float(bank.losses(judge, made, sequences).mean()) for name, made in rows.items()}
    serial = clock.median("serial peft")
    return {
        "serial_peft_s": serial,
        "ours_float32_s": clock.median("ours float32"),
        "ours_bfloat16_s": clock.median("ours bfloat16"),
        "ratio_float32": serial / clock.median("ours float32"),
        "ratio_bfloat16": serial / clock.median("ours bfloat16"),
        "ba_error_float32": ba_error(layout, rows["ours float32"], rows["serial peft"]),
        "loss_before": float(
            bank.losses(judge, start.theta.expand(len(data), -1), sequences).mean()
        ),
        **{f"loss_after_{name.replace(' ', '_')}": value for name, value in after.items()},
    }


def ba_error(layout: DeltaLayout, rows: Tensor, judge: Tensor) -> float:
    """Norm of the difference of all products B A, relative to the judge's."""
    off, total = 0.0, 0.0
    for (a, b), (c, d) in zip(layout.views(rows), layout.views(judge), strict=True):
        want = d.mT @ c
        off += float((b.mT @ a - want).square().sum())
        total += float(want.square().sum())
    return (off / total) ** 0.5


def in_bfloat16(
    base: BaseModel, layout: DeltaLayout, start: Start, data: list[TrainingPassage]
) -> Tensor:
    """As ``in_batches``, with the products in bfloat16: what ``adb ingest`` does."""
    with base.fitting_precision():
        return in_batches(base, layout, start, data)


def in_batches(
    base: BaseModel, layout: DeltaLayout, start: Start, data: list[TrainingPassage]
) -> Tensor:
    """Rows of all passages, 8 at a time, without the losses that ingest also measures."""
    recipe = get_recipe("rg", has_meta_init=False)
    adapted = AdaptedModel(base.model, layout)
    made = []
    for first in range(0, len(data), 8):
        sequences = [sequences_of(p, recipe, base.encoder) for p in data[first : first + 8]]
        rows = start.theta.expand(len(sequences), -1)
        made.append(bank.train(adapted, rows, sequences, recipe))
    adapted.remove()
    return torch.cat(made)


def serial_peft(
    base: BaseModel, layout: DeltaLayout, start: Start, data: list[TrainingPassage]
) -> Tensor:
    """One passage after the other with peft and torch's AdamW; the model is wrapped once."""
    recipe = get_recipe("rg", has_meta_init=False)
    config = peft.LoraConfig(
        r=layout.rank, lora_alpha=layout.alpha, lora_dropout=0.0,
        target_modules=[site.name for site in layout.sites],
    )  # fmt: skip
    model = peft.get_peft_model(base.model, config)
    tuned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    rows = torch.zeros(len(data), layout.size)
    for row, passage in zip(rows, data, strict=True):
        with torch.no_grad():
            for name, (a, b) in layout.unpack(start.theta).items():
                tuned[f"base_model.model.{name}.lora_A.default.weight"].copy_(a)
                tuned[f"base_model.model.{name}.lora_B.default.weight"].copy_(b)
        optimizer = torch.optim.AdamW(
            tuned.values(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        for _ in range(recipe.epochs):
            for sequence in sequences_of(passage, recipe, base.encoder):
                ids, _, labels = pad([sequence], torch.device("cpu"))
                logits = model(input_ids=ids, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            factors = {
                site.name: (
                    tuned[f"base_model.model.{site.name}.lora_A.default.weight"],
                    tuned[f"base_model.model.{site.name}.lora_B.default.weight"],
                )
                for site in layout.sites
            }
            layout.pack(factors, row)
    model.unload()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # peft and transformers warn about each other
    transformers.utils.logging.disable_progress_bar()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder))
        results["a activate top-3"] = activation(setting, Clock({}), options.rounds * 2)
        results["b 16 questions"] = questions(setting, Clock({}), min(options.rounds, 3))
        setting.store.close()
    results["c fit 32 passages"] = ingest(Clock({}), min(options.rounds, 2))
    for name, figures in results.items():
        print(name)
        for key, value in figures.items():
            print(f"    {key:32} {value:12.4g}")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    set_up = {"threads": options.threads, "rounds": options.rounds, **versions}
    print(json.dumps({"set_up": set_up, **results}))


if __name__ == "__main__":
    main()
