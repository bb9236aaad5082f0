"""Questions to a home: options, compositions by name, pins, and threads that ask at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.answers import COMPOSITIONS, Answer, Composition, Dials, Mixture
from adapterdb.errors import InvalidInput, Locked, NotFound

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


def test_who_holds_the_model_asks_past_the_line(db: AdapterDB) -> None:
    """Who asks while the model acts for it is answered, though another thread waits for it."""
    found: list[str] = []

    def hold() -> None:
        with db.applied({"ferry": 1.0}):
            other = threading.Thread(target=db.ask, args=(QUESTIONS[1],), daemon=True)
            other.start()
            while not db._home.answerer.queue._busy:
                other.join(0.01)
            found.append(db.ask(QUESTIONS[0], mode="base").text)
        other.join(60)

    want = db.ask(QUESTIONS[0], mode="base").text
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    holder.join(60)
    assert found == [want]


def test_nothing_of_a_forgotten_delta_stays_in_memory(db: AdapterDB) -> None:
    """Once a document is forgotten no tensor of this process holds numbers of its delta."""

    def holds(sample: bytes) -> bool:
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.is_cpu]
        wholes = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        plain = torch.empty(0, dtype=torch.uint8)
        return any(sample in plain.set_(whole).numpy().tobytes() for whole in wholes.values())

    with db:
        (delta,) = db.deltas("ferry")
        (ref,) = db._home.store.rows_of([delta.id])
        row = db._home.store.read_row(ref)
        at = int(row.abs().argmax())
        sample = row[max(0, at - 8) : at + 8].numpy().tobytes()
        del row
        for compose in ("cat", "svd"):
            db.ask(QUESTIONS[0], mode="adapter", mixture={"ferry": 1.0, "mill": 1.0},
                   compose=compose)  # type: ignore[arg-type]  # fmt: skip
        assert holds(sample)
        with db.applied({"ferry": 1.0}):  # what acts meanwhile is not kept afterwards
            db.forget("ferry")
        gc.collect()
        assert not holds(sample)


def test_a_first_question_in_inference_mode_spoils_nothing(db: AdapterDB) -> None:
    """What it loads can be used, changed and trained with outside of that mode."""
    db.close()
    with AdapterDB.open(db.path, options=LoadOptions(dtype="float32", slots=3)) as again:
        with torch.inference_mode():
            want = again.ask(QUESTIONS[0], mode="adapter", mixture={"ferry": 1.0})
        got = again.ask(QUESTIONS[0], mode="adapter", mixture={"ferry": 1.0})
        assert (got.text, got.logprob) == (want.text, pytest.approx(want.logprob))
        again.forget("mill")
        assert again.ingest([Document("new", "The new well is deep.")]).added == 1


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


def test_a_pin_ends_though_its_document_was_replaced_or_deleted(db: AdapterDB) -> None:
    """What is unpinned is what was pinned, not what the name stands for by then."""
    with db:
        pool = db._home.runtime.pool
        db.pin(["ferry", "mill"])
        db.ingest([Document("ferry", "The ferry of Almery leaves at ten.")])
        db.delete("mill")
        assert pool.pinned == 2
        db.unpin(["ferry", "mill"])
        assert pool.pinned == 0


def test_two_streams_read_in_turns_are_as_if_alone(db: AdapterDB) -> None:
    """Neither acts with what the other acts with, and nothing acts once both have ended."""
    with db:
        asked = [
            (QUESTIONS[0], {"mode": "adapter", "mixture": {"ferry": 40.0}, "compose": "svd"}),
            (QUESTIONS[1], {"mode": "adapter", "mixture": {"mill": -40.0, "bees": 9.0}}),
        ]
        alone = [db.ask(question, **how) for question, how in asked]  # type: ignore[arg-type]
        streams = [db.stream(question, **how) for question, how in asked]  # type: ignore[arg-type]
        last: list[Answer | None] = [None, None]
        for turn in zip_longest(*streams):
            last = [
                token.answer if token else before for token, before in zip(turn, last, strict=True)
            ]
        for found, want in zip(last, alone, strict=True):
            assert found is not None
            assert (found.text, found.logprob) == (want.text, want.logprob)
        assert db._home.runtime.adapted._acting is None


def test_a_stream_may_be_closed_by_another_thread(db: AdapterDB) -> None:
    """Then others ask as before."""
    with db:
        stream = db.stream(QUESTIONS[0], mode="adapter")
        next(stream)
        closer = threading.Thread(target=stream.close)  # type: ignore[attr-defined] # a generator
        closer.start()
        closer.join(10)
        asker = threading.Thread(target=db.ask, args=(QUESTIONS[1],), daemon=True)
        asker.start()
        asker.join(20)
        assert not asker.is_alive()


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e30, "much"])
def test_weights_that_are_no_usable_numbers_are_refused(db: AdapterDB, weight: float) -> None:
    """By name, and in a Mixture; so is a Mixture of no composition that there is."""
    with db:
        (ferry,) = db.deltas("ferry")
        with pytest.raises(InvalidInput, match="weight"):
            db.ask(QUESTIONS[0], mode="adapter", mixture={"ferry": weight})
        with pytest.raises(InvalidInput, match="weight"):
            Mixture(((ferry.id, weight),))
        with pytest.raises(InvalidInput, match="'most'"):
            Mixture(((ferry.id, 1.0),), "most")  # type: ignore[arg-type]


def test_a_name_that_is_not_there_is_called_a_document(db: AdapterDB) -> None:
    """Who mistypes a name is not told about the length of delta ids."""
    with db, pytest.raises(NotFound, match="no document 'fery'"):
        db.ask(QUESTIONS[0], mode="adapter", mixture={"fery": 1.0})
