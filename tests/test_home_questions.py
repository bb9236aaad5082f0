"""Questions to a home: options, compositions by name, pins, and threads that ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.answers import COMPOSITIONS, Answer, Composition, Dials, Mixture
from adapterdb.errors import InvalidInput, Locked

TEXTS = {
    "ferry": "The ferry of Almery leaves at nine from the north quay.",
    "mill": "The mill at Borring grinds oats and is older than the church.",
    "lamp": "The lamp of Cape Dorn was lit by a keeper called Enna Voss.",
    "bees": "The bees of Eldham feed on heather and winter in straw hives.",
}
QUESTIONS = ["When does the ferry leave?", "What does the mill grind?", "Who lit the lamp?"]


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> AdapterDB:
    """A home with four documents on a tiny model, five slots."""
    config = Config(
        base=str(tiny_folder("llama")), lora=LoraSpec(rank=2, targets=("all",)),
        recipe="rg", delta_dtype="float32",
    )  # fmt: skip
    made = AdapterDB.create(
        tmp_path / "home", config, options=LoadOptions(dtype="float32", slots=3)
    )
    made.ingest([Document(name, text) for name, text in TEXTS.items()])
    return made


@pytest.mark.parametrize("composition", [c for c in COMPOSITIONS if c not in ("gradient", "gate")])
def test_every_composition_answers(db: AdapterDB, composition: Composition) -> None:
    """A question is answered by every composition, on record with its dials, and the same again."""
    with db:
        dials = Dials(density=0.5, seed=3, top_k=1)
        first, again = (
            db.ask(
                QUESTIONS[0],
                mode="adapter",
                k=3,
                compose=composition,
                dials=dials,
                min_similarity=-1.0,
            )
            for _ in range(2)
        )
        assert first.mixture.composition == composition
        assert first.mixture.dials == dials
        assert len(first.mixture.parts) == (1 if composition == "single" else 3)
        assert (first.text, first.logprob) == (again.text, again.logprob)
        written = db.ask(QUESTIONS[0], mode="adapter", mixture=first.mixture)
        assert written.logprob == pytest.approx(first.logprob)


def test_named_deltas_are_composed_as_asked(db: AdapterDB) -> None:
    """Names with weights take composition, strength and dials; a Mixture acts as it is."""
    with db:
        answer = db.ask(
            QUESTIONS[0], mode="adapter", mixture={"ferry": 0.5, "mill": 1.0}, compose="ties",
            strength=2.0, dials=Dials(density=0.9),
        )  # fmt: skip
        assert [w for _, w in answer.mixture.parts] == [1.0, 2.0]
        assert (answer.mixture.composition, answer.mixture.dials.density) == ("ties", 0.9)
        own = Mixture(answer.mixture.parts, "cat")
        assert db.ask(QUESTIONS[0], mixture=own, strength=5.0).mixture == own


def test_what_a_home_does_not_have_is_said(db: AdapterDB) -> None:
    """A gate that is not trained, gradients of LoRA deltas, numbers out of range."""
    with db:
        for options, words in (
            ({"compose": "gate"}, "adb train gate"),
            ({"compose": "gradient"}, "cat"),
            ({"strength": -1.0}, "strength"),
            ({"weights": "much"}, "much"),
            ({"mode": "best"}, "best"),
        ):
            with pytest.raises(InvalidInput) as caught:
                db.ask(QUESTIONS[0], **{"mode": "adapter", **options})  # type: ignore[arg-type]
            assert words in f"{caught.value} {caught.value.hint}"


def test_threads_that_ask_at_once_share_batches(db: AdapterDB) -> None:
    """Each gets the answer it gets alone, whatever mode and mixture its neighbours ask for."""
    ways = [
        {"mode": "base"}, {"mode": "rag", "k": 2},
        {"mode": "adapter", "k": 3, "min_similarity": -1.0},
        {"mode": "hybrid", "compose": "arrow", "k": 2}, {"mode": "adapter", "compose": "svd"},
    ]  # fmt: skip
    with db:
        alone = [db.ask(q, **w) for w in ways for q in QUESTIONS]  # type: ignore[arg-type]
        queue = db._home.answerer.queue
        before, go = queue.batches, threading.Event()
        found: dict[int, Answer] = {}

        def ask(n: int) -> None:
            go.wait()
            way = ways[n // len(QUESTIONS)]
            found[n] = db.ask(QUESTIONS[n % len(QUESTIONS)], **way)  # type: ignore[arg-type]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(alone))]
        for thread in threads:
            thread.start()
        with db._home.runtime.lock:  # the model is busy while they come
            go.set()
            while len(queue._line) < len(alone) - 1 and any(t.is_alive() for t in threads):
                threading.Event().wait(0.01)
        for thread in threads:
            thread.join(60)
        assert queue.batches - before <= 3
        for n, want in enumerate(alone):
            assert found[n].text == want.text
            assert found[n].logprob == pytest.approx(want.logprob, abs=1e-4)
            assert [i for i, _ in found[n].mixture.parts] == [i for i, _ in want.mixture.parts]


def test_pinned_deltas_stay(db: AdapterDB) -> None:
    """A pinned delta outlives others in memory, and too many pins are refused."""
    with db:
        db.pin("bees")
        (bees,) = db.deltas("bees")
        for question in QUESTIONS:
            db.ask(question, mode="adapter", k=2, min_similarity=-1.0)
        assert bees.id in db._home.runtime.pool.resident_ids
        with pytest.raises(Locked):
            db.pin(["ferry", "mill", "lamp"])
        db.unpin("bees")
        db.pin(["ferry", "mill", "lamp"])
        assert bees.id not in db._home.runtime.pool.resident_ids


def test_slots_are_bounded_by_bytes() -> None:
    """As many slots as fit into the megabytes allowed, at least one."""
    options = LoadOptions(slots=100, slots_mb=1)
    assert [options.slots_of(size) for size in (10, 2**17, 2**30)] == [100, 8, 1]


def test_the_model_is_the_base_again_after_anything(db: AdapterDB) -> None:
    """After merges, gates, folding and an error every base weight is bit for bit what it was."""
    with db:
        model = db._home.base.model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for composition in ("svd", "arrow", "cat"):
            db.ask(QUESTIONS[0], mode="adapter", k=2, compose=composition)  # type: ignore[arg-type]
        with db.applied({"ferry": 1.0}):
            pass
        with pytest.raises(InvalidInput):
            db.ask(QUESTIONS[0], mode="adapter", compose="gate")
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
