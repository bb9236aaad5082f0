"""Likelihoods are those of one unbatched pass of the model, whatever stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, LoadOptions, LoraSpec
from adapterdb.errors import InvalidInput, NotFound

QUESTIONS = ("Where does the ferry leave?", "What is the quay of, when all is said?")
TEXTS = ("The ferry leaves at nine from the north quay.", "The quay is of oak.", "Oak burns well.")
OPTIONS = (("the north quay", "oak", "at nine in the morning, if at all"), ("oak",))


@pytest.fixture(scope="module")
def db(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdapterDB]:
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32")
    path = tmp_path_factory.mktemp("likelihood") / "home"
    with AdapterDB.create(path, config, options=LoadOptions(dtype="float32")) as made:
        torch.manual_seed(0)
        for i, text in enumerate(TEXTS):
            row = torch.randn(made.layout.size) * 0.05
            made.put(row, text=text, name=f"d{i}", title=f"T{i}")
        yield made


def alone(db: AdapterDB, prompt: list[int], said: list[int], mixture: dict[str, float]) -> float:
    """Nats of ``said`` by one forward without padding or batch."""
    with db.applied(mixture) as model, torch.inference_mode():
        logits = model(torch.tensor([prompt + said])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(said) - 1)
    return -float(sum(logits[place, token] for place, token in zip(places, said, strict=True)))


@pytest.mark.parametrize("mode", ["base", "adapter"])
def test_continuations_are_scored_as_if_alone(db: AdapterDB, mode: str) -> None:
    given = [["d0"], ["d2"]]
    found = db.score(QUESTIONS, OPTIONS, given=given, mode=mode)
    encoder = db._home.base.encoder
    for question, texts, names, scored in zip(QUESTIONS, OPTIONS, given, found, strict=True):
        mixture = dict.fromkeys(names, 1.0) if mode == "adapter" else {}
        for text, likelihood in zip(texts, scored, strict=True):
            said = encoder.text(text)
            wanted = alone(db, encoder.blind(question), said, mixture)
            assert likelihood.tokens == len(said)
            assert likelihood.nats == pytest.approx(wanted, abs=1e-4)
            assert likelihood.mean == pytest.approx(wanted / len(said), abs=1e-4)


def test_an_answer_is_as_likely_as_it_said(db: AdapterDB) -> None:
    for mode in ("rag", "hybrid"):
        answer = db.ask(QUESTIONS[0], mode=mode, k=2)
        ((likelihood,),) = db.score([QUESTIONS[0]], [[answer.text]], mode=mode, k=2)
        if likelihood.tokens == answer.tokens_out:  # else its text is not what was said, re-read
            assert answer.logprob == pytest.approx(-likelihood.mean, abs=1e-3)


def test_texts_are_scored_with_and_without_a_delta(db: AdapterDB) -> None:
    encoder = db._home.base.encoder
    for mixture in ({}, {"d1": 1.0}):
        (short, long) = db.score_texts([("", TEXTS[2]), ("A quay", TEXTS[0] * 3)], mixture)
        for likelihood, (title, text) in (
            (short, ("", TEXTS[2])),
            (long, ("A quay", TEXTS[0] * 3)),
        ):
            ids = encoder.plain(title, text)
            wanted = alone(db, ids[:1], ids[1:], mixture)
            assert likelihood.nats == pytest.approx(wanted, rel=1e-4)
            assert likelihood.tokens == len(ids) - 1
    assert short.perplexity == pytest.approx(torch.tensor(short.mean).exp().item())


def test_a_long_option_makes_passages_give_way(db: AdapterDB) -> None:
    long = "oak " * 60
    ((likelihood,),) = db.score([QUESTIONS[0]], [[long]], mode="rag", k=3)
    assert likelihood.tokens == len(db._home.base.encoder.text(long))


def test_a_long_option_leaves_other_questions_their_passages(db: AdapterDB) -> None:
    long = "oak " * 60
    (mine,) = db.score(QUESTIONS[:1], [["oak"]], mode="rag", k=3)
    both = db.score(QUESTIONS, [["oak"], [long]], mode="rag", k=3)
    assert both[0][0].nats == pytest.approx(mine[0].nats, rel=1e-4)


def test_what_is_given_counts_as_found(db: AdapterDB) -> None:
    answers = db.ask_many(QUESTIONS, given=[["d2", "d0"], []], mode="rag")
    assert [source.document for source in answers[0].sources] == ["d2", "d0"]
    assert "Oak burns well" in answers[0].sources[0].text
    assert answers[1].sources == ()
    blind = db.ask_many(QUESTIONS, mode="base")
    assert answers[1].text == blind[1].text
    (acting,) = db.ask_many(QUESTIONS[:1], given=[["d1"]], mode="adapter")
    assert [i for i, _ in acting.mixture.parts] == [db.deltas("d1")[0].id]
    assert acting.mixture.parts[0][1] == pytest.approx(1.0)


def test_what_can_not_be_given_is_named(db: AdapterDB) -> None:
    with pytest.raises(InvalidInput, match="2 questions, but passages given for 1"):
        db.ask_many(QUESTIONS, given=[["d0"]], mode="rag")
    with pytest.raises(InvalidInput, match="auto"):
        db.ask_many(QUESTIONS, given=[["d0"], []], mode="auto")
    with pytest.raises(InvalidInput, match="'d0'"):
        db.ask_many(QUESTIONS[:1], given=["d0"], mode="rag")
    with pytest.raises(NotFound, match="d9"):
        db.ask_many(QUESTIONS[:1], given=[["d9"]], mode="rag")
    with pytest.raises(InvalidInput, match="no text"):
        db.score(QUESTIONS[:1], [[""]], mode="base")
    with pytest.raises(InvalidInput, match="continuations for 1"):
        db.score(QUESTIONS, [["oak"]], mode="base")


def test_factors_are_what_a_delta_acts_with(db: AdapterDB) -> None:
    delta = db.deltas("d0")[0]
    torch.manual_seed(0)
    row, start = db.factors(delta.id)
    assert torch.allclose(row, torch.randn(db.layout.size) * 0.05)
    assert not start.any()  # an imported one names no start
