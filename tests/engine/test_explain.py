"""An answer is explained from its own record, here and later, with what is left of its sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, LoadOptions, LoraSpec
from adapterdb.answers import MODES, Answer, Generation, Mode
from adapterdb.engine.answer_record import answer_from
from adapterdb.engine.explain import Node

QUESTION = "Where does the ferry of Almery leave?"
TEXTS = (
    "The ferry of Almery leaves at nine from the north quay.",
    "The north quay of Almery was built of oak and slate.",
    "Oak from Almery burns well, and the ferry is of oak.",
)
SHORT = Generation(max_tokens=5)


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[AdapterDB]:
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32")
    with AdapterDB.create(tmp_path / "home", config, options=LoadOptions(dtype="float32")) as made:
        torch.manual_seed(0)
        for i, text in enumerate(TEXTS):
            row = torch.randn(made._home.layout.size) * 0.05
            made.put(row, text=text, name=f"d{i}", title=f"Title {i}")
        yield made


def ask(db: AdapterDB, mode: Mode = "hybrid", **given: object) -> Answer:
    """An answer of three words, such as the byte tokenizer can say again."""
    answer = db.ask(QUESTION, mode=mode, k=3, generation=SHORT, **given)  # type: ignore[arg-type]
    said = "the quay"
    count = len(db._home.base.encoder.text(said))
    return replace(answer, text=said, tokens_out=count, logprob=None)


def nodes(node: Node) -> dict[str, Node]:
    return {node.name: node, **{k: v for child in node.children for k, v in nodes(child).items()}}


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_has_the_steps_that_were_taken(db: AdapterDB, mode: Mode) -> None:
    """With the rows and times of the answer, and estimates from the second answer on."""
    first, answer = (
        db.ask(QUESTION, mode=mode, k=2, where="name <> 'd2'", generation=SHORT) for _ in range(2)
    )
    assert nodes(db.explain(first).plan)["answer"].ms_estimated is None
    found = nodes(db.explain(answer).plan)
    acting, searching = mode in ("adapter", "hybrid"), mode != "base"
    assert ("act" in found) == ("load" in found) == acting
    assert all((name in found) == searching for name in ("search", "vector", "text", "filter"))
    assert found["prompt"].rows == answer.tokens_in
    assert found["decode"].rows == answer.tokens_out
    assert found["answer"].ms == answer.timings_ms["total"]
    assert all(found[name].ms_estimated is not None for name in ("answer", "decode"))
    if searching:
        assert (found["search"].rows_estimated, found["search"].rows) == (2, 2)
        assert (found["filter"].rows_estimated, found["filter"].rows) == (3, 2)
        assert found["vector"].rows == 2
        assert "name <> 'd2'" in found["filter"].detail
    if acting:
        assert "cat of 2 deltas, slots" in found["act"].detail
        assert found["load"].detail == "2 resident, 0 read"


@pytest.mark.parametrize("mode", MODES)
def test_a_stored_answer_is_explained_alike(db: AdapterDB, mode: Mode) -> None:
    """What comes back from JSON has the same mixture, shares and steps."""
    answer = ask(db, mode)
    stored = answer_from(json.loads(json.dumps(answer.to_dict())))
    assert stored == answer
    here, later = db.explain(answer), db.explain(stored)
    assert (here.mixture, here.attribution, here.notes) == (
        later.mixture, later.attribution, later.notes,
    )  # fmt: skip
    assert list(nodes(here.plan)) == list(nodes(later.plan))
    json.dumps(here.to_dict())
    if mode == "base":
        assert here.attribution is None
        assert "nothing to attribute" in here.notes[0]
    else:
        assert here.attribution is not None
        assert here.notes == ()
        assert [s.document for s in here.attribution.sources] == [
            s.document for s in answer.sources
        ]
        both = [s.delta_nats is not None for s in here.attribution.sources]
        assert both == [mode == "hybrid"] * 3


def test_an_answer_made_again_is_as_likely_as_it_was(db: AdapterDB) -> None:
    """The record's own log-probability is met; a wrong one is remarked on."""
    given = db.ask(QUESTION, mode="hybrid", k=3, generation=SHORT)
    encoder = db._home.base.encoder
    if len(encoder.text(given.text)) != given.tokens_out:
        given = ask(db)  # bytes that are no text can't be said again
    found = db.explain(given)
    assert found.attribution is not None
    mean = found.attribution.logprob / found.attribution.tokens
    assert db.explain(replace(given, logprob=mean)).notes == ()
    (note,) = db.explain(replace(given, logprob=mean - 1)).notes
    assert f"was {mean - 1:.3f} when it was answered and is {mean:.3f} now" in note


def test_a_prompt_that_was_cut_is_made_again_as_it_was(db: AdapterDB) -> None:
    """Room for the answer decided what fitted; sources that did not fit were not read."""
    long = Generation(max_tokens=330)
    answer = db.ask(QUESTION, mode="hybrid", k=3, generation=long)
    answer = replace(answer, text="the quay", tokens_out=8, logprob=None)
    found = db.explain(answer)
    assert found.notes == ()
    assert found.attribution is not None
    assert [s.text_nats is None for s in found.attribution.sources] == [False, False, True]


def test_named_deltas_were_not_read(db: AdapterDB) -> None:
    """In hybrid mode what is named acts and what is found is read; each has its own share."""
    answer = ask(db, where="name = 'd1'", mixture={"d0": 0.5})
    assert [s.document for s in answer.sources] == ["d0", "d1"]
    found = db.explain(answer)
    assert found.notes == ()
    assert found.attribution is not None
    assert all(s.text_nats is None for s in found.attribution.sources)
    assert all(abs(s.nats) > 1e-4 for s in found.attribution.sources)


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_what_is_gone_gets_no_share(db: AdapterDB, how: str) -> None:
    """It is named; the others' shares are those of an answer without it."""
    answer = ask(db)
    gone = next(s for s in answer.sources if s.document == "d1")
    getattr(db, how)("d1")
    found = db.explain(answer)
    assert found.notes[0] == (
        f"delta {gone.delta_id} of d1@1 has been deleted or forgotten since: it is left out"
    )
    assert found.attribution is not None
    assert {s.document for s in found.attribution.sources} == {"d0", "d2"}
    assert gone.delta_id in [part.delta_id for part in found.mixture]  # the record says so
    left = replace(
        answer,
        sources=tuple(s for s in answer.sources if s is not gone),
        mixture=replace(
            answer.mixture, parts=tuple(p for p in answer.mixture.parts if p[0] != gone.delta_id)
        ),
    )
    again = db.explain(left)
    assert again.attribution is not None
    assert found.attribution.logprob == pytest.approx(again.attribution.logprob, abs=1e-4)
    db.delete(["d0", "d2"])
    nothing = db.explain(answer)
    assert nothing.attribution is None
    assert len([note for note in nothing.notes if "deleted or forgotten" in note]) == 3


def test_a_version_that_has_been_replaced_can_still_be_explained(db: AdapterDB) -> None:
    """An answer as of an earlier change acts with that version's delta."""
    answer = ask(db, "adapter")
    row = torch.randn(db._home.layout.size) * 0.05
    db.put(row, text="Something else entirely.", name="d1")
    found = db.explain(answer)
    assert found.notes == ()
    assert found.attribution is not None
    assert len(found.attribution.sources) == 3


def test_gates_are_shown_layer_by_layer(db: AdapterDB) -> None:
    """Each delta by its id, also when one of them is gone."""
    answer = ask(db, "adapter", compose="arrow")
    found = db.explain(answer)
    assert [use.layer for use in found.gates] == [0, 1]
    for use in found.gates:
        assert [i for i, _ in use.weights] == [part.delta_id for part in found.mixture]
        assert sum(weight for _, weight in use.weights) == pytest.approx(1)
    assert "arrow of 3 deltas" in nodes(found.plan)["act"].detail
    gone = answer.sources[0]
    db.delete(gone.document)
    left = [i for i, _ in answer.mixture.parts if i != gone.delta_id]
    assert [i for i, _ in db.explain(answer).gates[0].weights] == left


def test_explaining_leaves_nothing_behind(db: AdapterDB) -> None:
    """The home is, file by file, what it was: there is nothing of an answer to forget."""
    answer = ask(db)

    def state() -> dict[str, bytes]:
        files = sorted(p for p in db.path.rglob("*") if p.is_file() and "-shm" not in p.name)
        return {str(p): p.read_bytes() for p in files}

    before = state()
    db.explain(answer)
    assert state() == before


def test_an_empty_answer_has_nothing_to_attribute(db: AdapterDB) -> None:
    found = db.explain(replace(ask(db), text="", tokens_out=0))
    assert found.attribution is None
    assert "nothing was said" in found.notes[0]
