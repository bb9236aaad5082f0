"""What bench_engine works on: random deltas in a store of ours and in peft folders, and a clock.

A case is one model, one layout and S deltas of it; ``Case.top3`` says which three are a question's.
The peers are peft as its documentation has it, on a model of their own with the same weights.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from ingest_case import small_llama
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor

from adapterdb import prototype
from adapterdb.answers import Composition, Generation, Mixture
from adapterdb.base_model import BaseModel
from adapterdb.engine.decode import decode
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.engine.stops import StopRules
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from adapterdb.peft_format import write_peft
from adapterdb.records import Document, Passage
from adapterdb.store.rows import NewDocument, NewPassage, StoreInfo
from adapterdb.store.store import Store
from adapterdb.training.start import Start

NEVER = StopRules(frozenset(), (), str)
STRENGTH = 0.02  # of the random factors: changes every logit, and not past recognition
CHUNK = 500  # rows written and documents committed at once
Tokens = list[list[int]]


class Clock:
    """Seconds of named variants, one entry for each time.

    Args:
        now: CPU seconds of the process, or of the wall.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.now = now
        self.seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block under ``name``."""
        began = self.now()
        yield
        self.seconds.setdefault(name, []).append(self.now() - began)

    def add(self, name: str, other: str) -> None:
        """Count the times of ``other`` with those of ``name``."""
        times = zip(self.seconds[name], self.seconds.pop(other), strict=True)
        self.seconds[name] = [a + b for a, b in times]

    def median(self, name: str) -> float:
        """Median seconds of a variant."""
        return statistics.median(self.seconds[name])

    def ratio(self, peer: str, ours: str) -> float:
        """How many times longer the peer takes."""
        return self.median(peer) / self.median(ours)

    def table(self, unit: float = 1e3) -> dict[str, float]:
        """Medians of all variants in milliseconds."""
        return {name: unit * self.median(name) for name in self.seconds}


class Case:
    """Random deltas of a random Llama, in a store and, if asked, in peft folders.

    Args:
        folder: the store and the peft folders are made in it.
        deltas: how many.
        slots: resident at once.
        rank: of all of them, on the MLP linears.
        tiny: a model for trying the program, see ``small_llama``.
        peers: whether peft folders are written.
    """

    def __init__(
        self,
        folder: Path,
        deltas: int,
        slots: int,
        *,
        rank: int = 2,
        tiny: bool = False,
        peers: bool = True,
    ) -> None:
        self.tiny, self.folder, self.slots = tiny, folder, slots
        self.layout = plan_layout(LoraSpec(rank, 16.0 * rank, ("mlp",)), linears(self.fresh()))
        self.folders = [folder / f"peft{i}" for i in range(deltas if peers else 0)]
        info = StoreInfo("base", "embedder", 8, self.layout, dtype="bfloat16")
        self.store = Store.create(folder / "home", info)
        self.ids: list[str] = []
        self.cores: dict[str, bytes] = {}
        for first in range(0, deltas, CHUNK):
            rows = torch.randn(min(CHUNK, deltas - first), self.layout.size) * STRENGTH
            self._put(first, rows.bfloat16(), peers=peers)
        self.runtime = self.serving(torch.float32)

    def _put(self, first: int, rows: Tensor, *, peers: bool) -> None:
        ids = stored(self.store, first, rows)
        self.ids += ids
        if not peers:
            return
        for delta_id, core in zip(ids, prototype.cores(self.layout, rows), strict=True):
            self.cores[delta_id] = prototype.to_bytes(core)
        for path, row in zip(self.folders[first:], rows, strict=False):
            write_peft(path, row, self.layout, base_model="random")

    def fresh(self) -> Any:
        """A model with the weights that all have."""
        return small_llama(tiny=self.tiny)

    def serving(self, dtype: torch.dtype) -> Runtime:
        """A runtime over the store with a model of its own."""
        device = torch.device("cpu")
        model = self.fresh().to(dtype)
        base = BaseModel("random", self.folder, model, None, None, device, dtype)  # type: ignore[arg-type]
        zero = Start(torch.zeros(self.layout.size), torch.zeros(self.layout.size))
        return Runtime(
            base, self.layout, zero, slots=self.slots, dtype=torch.bfloat16,
            load=self.store.read_into,
        )  # fmt: skip

    def top3(self, question: int) -> tuple[list[str], list[Path]]:
        """Ids and folders of the three deltas of a question; disjoint for questions in a row."""
        picks = [(3 * question + j) % len(self.ids) for j in range(3)]
        return [self.ids[i] for i in picks], [self.folders[i] for i in picks if self.folders]

    def mixtures(
        self, questions: int, composition: Composition = "cat", first: int = 0
    ) -> list[Mixture]:
        """The mixtures of so many questions, all weights 1."""
        names = (self.top3(question)[0] for question in range(first, first + questions))
        return [Mixture(tuple((name, 1.0) for name in three), composition) for three in names]

    def registered(self, mixtures: Sequence[Mixture]) -> dict[str, Registered]:
        """Where the deltas of mixtures lie, asked of the catalog."""
        ids = list(dict.fromkeys(name for mixture in mixtures for name, _ in mixture.parts))
        rows = self.store.rows_of(ids)
        return {
            i: Registered("lora", row, prototype=self.cores.get(i, b""))
            for i, row in zip(ids, rows, strict=True)
        }

    def prompts(self, questions: int, length: int) -> Tokens:
        """Random prompts of equal length."""
        words = 8192
        maker = torch.Generator().manual_seed(1)
        return torch.randint(0, words, (questions, length), generator=maker).tolist()

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def activated(
    case: Case,
    question: int,
    clock: Clock,
    name: str,
    known: Mapping[str, Registered] | None = None,
) -> None:
    """Time the activation of a question's top-3 and letting go of it.

    Args:
        known: where rows lie, as a search has it; None: asked of the catalog, in the time.
    """
    mixtures = case.mixtures(1, first=question)
    with clock.measure(name):
        registered = case.registered(mixtures) if known is None else known
        with case.runtime.acting(mixtures, registered):
            pass


def linears(model: Any) -> list[tuple[str, int, int]]:
    """Path and widths of every linear of a model."""
    return [
        (name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]


def stored(store: Store, first: int, rows: Tensor) -> list[str]:
    """Ids of rows put into the store, each as the delta of a document of its own."""
    documents = []
    for i, ref in enumerate(store.write_rows(rows), start=first):
        vector = np.eye(8, dtype=np.float32)[i % 8]
        passage = NewPassage(Passage(0, 0, 1, "x", 1), vector, ref, "lora", "rg")
        documents.append(NewDocument("default", Document(f"d{i}", "x"), "", f"k{i}", (passage,)))
    return [store.deltas(document.id)[0].id for document in store.commit(documents)]


def answers(model: Any, prompts: Tokens, new: int) -> Tokens:
    """``new`` greedy tokens after each prompt by our decode loop."""
    said: Tokens = [[] for _ in prompts]
    for step in decode(model, prompts, Generation(), NEVER, new):
        for mine, token in zip(said, step, strict=True):
            assert token is not None  # nothing stops these answers
            mine.append(token.token)
    return said


def agreement(ours: Tokens, theirs: Tokens) -> dict[str, float]:
    """Share of equal answers, and of tokens before an answer's first difference."""
    pairs = list(zip(ours, theirs, strict=True))
    same = [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
        for x, y in pairs
    ]
    return {
        "equal answers": statistics.mean(x == y for x, y in pairs),
        "equal tokens": sum(same) / sum(len(x) for x in ours),
    }


class Sequential:
    """peft as PRAG drives it: for each question load three, concatenate, act, delete."""

    def __init__(self, case: Case) -> None:
        self.model = _judge(case, case.folders[0], "keep")

    def activate(self, folders: Sequence[Path]) -> None:
        """Act with the sum of three adapters from disk."""
        names = [f"a{j}" for j in range(len(folders))]
        for name, path in zip(names, folders, strict=True):
            self.model.load_adapter(str(path), adapter_name=name)
        self.model.add_weighted_adapter(names, [1.0] * len(names), "mix", "cat")
        self.model.set_adapter("mix")
        for name in names:
            self.model.delete_adapter(name)

    def let_go(self) -> None:
        """Delete the sum."""
        self.model.delete_adapter("mix")

    def answer(self, prompt: list[int], folders: Sequence[Path], new: int) -> list[int]:
        """Greedy tokens of one question, its adapters loaded and deleted."""
        self.activate(folders)
        said = generated(self.model, [prompt], new)
        self.let_go()
        return said[0]


class Swapped:
    """peft with three resident adapters overwritten in place by ``hotswap_adapter``."""

    def __init__(self, case: Case) -> None:
        self.model = _judge(case, case.folders[0], "s0")
        for name in ("s1", "s2"):
            self.model.load_adapter(str(case.folders[0]), adapter_name=name)
        self.model.base_model.set_adapter(["s0", "s1", "s2"])

    def activate(self, folders: Sequence[Path]) -> None:
        """Overwrite the three."""
        for j, path in enumerate(folders):
            hotswap_adapter(self.model, str(path), adapter_name=f"s{j}", torch_device="cpu")


class Mixed:
    """peft's mixed batch: ``adapter_names``, each question's three merged beforehand and resident.

    A merged adapter is the concatenation of three, which is their sum with weights 1.
    """

    def __init__(self, case: Case, questions: int, folder: Path) -> None:
        wide = case.layout.rank * 3
        spec = LoraSpec(wide, case.layout.scale * wide, ("mlp",))
        layout = plan_layout(spec, linears(case.fresh()))
        self.names = [f"q{i}" for i in range(questions)]
        for i, name in enumerate(self.names):
            rows = torch.stack(
                [case.store.read_row(r) for r in case.store.rows_of(case.top3(i)[0])]
            )
            write_peft(
                folder / name, _joined(case.layout, rows, layout), layout, base_model="random"
            )
        self.model = _judge(case, folder / self.names[0], self.names[0])
        for name in self.names[1:]:
            self.model.load_adapter(str(folder / name), adapter_name=name)

    def answer(self, prompts: Tokens, new: int) -> Tokens:
        """Greedy tokens of all questions in one ``generate``."""
        return generated(self.model, prompts, new, adapter_names=self.names)


def _judge(case: Case, folder: Path, name: str) -> Any:
    model = peft.PeftModel.from_pretrained(case.fresh(), str(folder), adapter_name=name)
    return model.eval()


def _joined(narrow: DeltaLayout, rows: Tensor, wide: DeltaLayout) -> Tensor:
    """Rows ``(K, P)`` of one layout as one of K times the rank."""
    row = torch.zeros(wide.size, dtype=rows.dtype)
    for i, (a, b) in enumerate(narrow.views(rows)):
        wide.a(row, i).copy_(a.flatten(0, 1))
        wide.b(row, i).copy_(b.flatten(0, 1))
    return row


def generated(model: Any, prompts: Tokens, new: int, **more: Any) -> Tokens:
    """``new`` greedy tokens after each prompt by transformers' ``generate``."""
    given = torch.tensor(prompts)
    with contextlib.redirect_stderr(io.StringIO()):
        said = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
            max_new_tokens=new, eos_token_id=None, pad_token_id=0, **more,
        )  # fmt: skip
    found: Tokens = said[:, given.shape[1] :].tolist()
    return found
