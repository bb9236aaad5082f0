"""Mode auto: the cheapest mode that is expected to do about as well, and at most one more."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.answers import MODES, Answer, Generation, Mode
from adapterdb.engine.auto import NOT_CALIBRATED, Auto, better, cheapest
from adapterdb.engine.calibration import CONFIDENCE, KIND, MORE, RETRIEVAL, Calibration
from adapterdb.engine.plan import NOTHING_RELEVANT, AskOptions
from adapterdb.engine.search import Found

MS: dict[Mode, float] = {"base": 1.0, "rag": 5.0, "adapter": 2.0, "hybrid": 6.0}
SHORT = Generation(max_tokens=3)
QUESTIONS = ["Where does the ferry leave?", "What is the quay of?", "Does oak burn?"]


@pytest.fixture(scope="module")
def db(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdapterDB]:
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=2), delta_dtype="float32")
    path = tmp_path_factory.mktemp("auto") / "home"
    with AdapterDB.create(path, config, options=LoadOptions(dtype="float32")) as made:
        texts = ["The ferry leaves from the north quay.", "The quay is of oak.", "Oak burns well."]
        made.ingest([Document(f"d{i}", text) for i, text in enumerate(texts)])
        yield made


def logit(f1: float) -> float:
    return float(torch.logit(torch.tensor(f1, dtype=torch.float64)))


def calibration(
    expected: Mapping[str, float], judged: Mapping[str, float] | None = None, by_length: float = 0
) -> Calibration:
    """One that expects and judges the same of every question.

    Args:
        judged: of answers; as expected where not given.
        by_length: what a word more in a question adds to the logit of mode rag.
    """
    f, c = len(RETRIEVAL), len(CONFIDENCE)
    before, after = torch.zeros(4, f + 1).double(), torch.zeros(4, f + c + 1).double()
    before[:, -1] = torch.tensor([logit(expected[m]) for m in MODES])
    after[:, -1] = torch.tensor([logit({**expected, **(judged or {})}[m]) for m in MODES])
    before[1, RETRIEVAL.index("question_words")] = by_length
    wide = torch.full((f + c,), 100.0).double()
    cost = torch.tensor([[10.0, MS[m]] for m in MODES]).double()
    return Calibration(before, after, -wide, wide, cost, 0.02)


def auto(
    db: AdapterDB, known: Calibration | None, asked: list[tuple[Mode, int]] | None = None
) -> Auto:
    """Auto over the real answerer; ``asked`` is filled with the batches it asks."""
    answerer = db._home.answerer

    def ask(
        questions: Sequence[str], options: AskOptions, found: Sequence[Sequence[Found]]
    ) -> list[Answer]:
        if asked is not None:
            asked.append((options.mode, len(questions)))
        return answerer.ask_many(questions, options, found)

    find = partial(answerer.planner.find, more=MORE)
    return Auto(find, answerer.planner.k, ask, known)


def options(**changed: object) -> AskOptions:
    return AskOptions(mode="auto", k=2, generation=SHORT, **changed)  # type: ignore[arg-type]


def test_the_cheapest_within_the_tolerance_is_asked() -> None:
    expected: dict[Mode, float] = {"base": 0.1, "rag": 0.6, "adapter": 0.59, "hybrid": 0.605}
    assert cheapest(expected, MS, 0.02) == "adapter"
    assert cheapest(expected, MS, 0.005) == "rag"
    assert cheapest(expected, MS, 0.0) == "hybrid"
    assert cheapest(expected, MS, 1.0) == "base"


def test_another_is_asked_only_if_it_should_do_better_by_more_than_the_tolerance() -> None:
    expected: dict[Mode, float] = {"base": 0.1, "rag": 0.6, "adapter": 0.5, "hybrid": 0.4}
    assert better("adapter", 0.57, expected, 0.02) == "rag"
    assert better("adapter", 0.58, expected, 0.02) is None
    assert better("rag", 0.1, expected, 0.02) == "adapter"
    assert better("rag", 0.49, expected, 0.02) is None


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_is_that_of_the_mode_chosen(db: AdapterDB, mode: Mode) -> None:
    """Text, sources, weights and prompt as if the mode had been asked for; its name and why."""
    known = calibration({m: 0.9 if m == mode else 0.2 for m in MODES})
    found = auto(db, known).ask_many(QUESTIONS, options())
    fixed = db.ask_many(QUESTIONS, mode=mode, k=2, generation=SHORT)
    for mine, other in zip(found, fixed, strict=True):
        assert (mine.text, mine.mode, mine.sources, mine.mixture, mine.tokens_in) == (
            other.text, mode, other.sources, other.mixture, other.tokens_in,
        )  # fmt: skip
        assert mine.note.startswith(f"auto: {mode}, expected F1 0.90")
        stages = [mine.timings_ms[stage] for stage in ("search", "load", "generate")]
        assert mine.timings_ms["total"] == pytest.approx(sum(stages), abs=0.1)


def test_a_doubtful_answer_is_asked_again_in_the_next_best_mode(db: AdapterDB) -> None:
    """The one judged higher is given, with the time of both."""
    expected = {"base": 0.1, "rag": 0.3, "adapter": 0.6, "hybrid": 0.5}
    for judged, given in ((0.7, "hybrid"), (0.05, "adapter")):
        known = calibration(expected, {"adapter": 0.2, "hybrid": judged})
        asked: list[tuple[Mode, int]] = []
        (found,) = auto(db, known, asked).ask_many(QUESTIONS[:1], options())
        assert asked == [("adapter", 1), ("hybrid", 1)]
        assert found.mode == given
        assert f"auto: adapter, judged F1 0.20, then hybrid, {judged:.2f}" in found.note
        assert found.note.count("auto:") == 1
    assert found.timings_ms["generate"] > 0


def test_many_questions_take_at_most_two_batches_of_each_mode(db: AdapterDB) -> None:
    """However they are chosen; answers stay in order."""
    expected = {"base": 0.1, "rag": 0.2, "adapter": 0.5, "hybrid": 0.4}
    known = calibration(expected, {"adapter": 0.1, "rag": 0.1, "hybrid": 0.6}, by_length=1.2)
    questions = ["Oak?", *QUESTIONS, "Where?", "From which quay does the ferry leave at nine?"]
    asked: list[tuple[Mode, int]] = []
    found = auto(db, known, asked).ask_many(questions, options())
    assert [answer.question for answer in found] == questions
    assert len({mode for mode, _ in asked[:2]}) == 2, "the first round was to differ by question"
    assert all([mode for mode, _ in asked].count(m) <= 2 for m in MODES)
    assert sum(n for _, n in asked) <= 2 * len(questions)


def test_without_a_calibration_hybrid_answers_what_something_is_found_for(db: AdapterDB) -> None:
    """And the note says what to do; where nothing is near enough, the base model answers."""
    found = auto(db, None).ask_many(QUESTIONS[:1], options())[0]
    assert (found.mode, found.note) == ("hybrid", NOT_CALIBRATED)
    for known in (None, calibration(dict.fromkeys(MODES, 0.5))):
        none = auto(db, known).ask_many(QUESTIONS[:1], options(min_similarity=1.0))[0]
        assert (none.mode, none.note, none.sources) == ("base", NOTHING_RELEVANT, ())


def test_what_is_not_near_enough_is_not_made_up_for(db: AdapterDB) -> None:
    """A bound on similarity leaves the hits a fixed mode has, though more were looked at."""
    fixed = db.ask(QUESTIONS[0], mode="rag", k=2, generation=SHORT)
    least = min(source.similarity for source in fixed.sources) + 1e-4
    known = calibration({m: 0.9 if m == "rag" else 0.2 for m in MODES})
    wanted = db.ask(QUESTIONS[0], mode="rag", k=2, min_similarity=least, generation=SHORT)
    (found,) = auto(db, known).ask_many(QUESTIONS[:1], options(min_similarity=least))
    assert len(fixed.sources) == 2
    assert found.sources == wanted.sources != fixed.sources


def test_the_homes_newest_calibration_is_what_auto_goes_by(db: AdapterDB) -> None:
    """Asked or streamed; a stream asks only once."""
    for mode in ("rag", "adapter"):
        known = calibration({m: 0.9 if m == mode else 0.2 for m in MODES}, {mode: 0.01})
        db._home.shared.keep(
            KIND, known.to_tensors(), fingerprint=known.fingerprint, facts={"k": 2}
        )
        asked = db.ask(QUESTIONS[0], mode="auto", generation=SHORT)
        assert asked.note.startswith(f"auto: {mode}, ")
        *_, last = db.stream(QUESTIONS[0], mode="auto", generation=SHORT)
        assert last.answer is not None
        assert last.answer.mode == mode
        assert "then" not in last.answer.note


def test_looking_further_changes_none_of_the_hits_that_are_used(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first k are those of a fixed mode; deeper lists would fuse to others."""
    config = Config(base=str(tiny_folder("llama")), lora=LoraSpec(rank=1), delta_dtype="float32")
    chance = random.Random(0)
    words = [
        "ferry",
        "quay",
        "oak",
        "harbour",
        "salt",
        "kettle",
        "law",
        "island",
        "boat",
        "light",
        "stone",
        "north",
    ]
    with AdapterDB.create(tmp_path / "home", config, options=LoadOptions(dtype="float32")) as made:
        row = torch.zeros(made._home.layout.size)
        for i in range(30):
            made.put(row, text=" ".join(chance.choices(words, k=12)), name=f"d{i}")
        planner = made._home.answerer.planner
        questions = [" ".join(chance.sample(words, 3)) for _ in range(20)]
        asked, deeper = AskOptions(k=1), AskOptions(k=1 + MORE)
        few, many, deep = (
            [[entry.hit.passage_id for entry in found] for found in lists]
            for lists in (
                planner.find(questions, asked),
                planner.find(questions, asked, more=MORE),
                planner.find(questions, deeper),
            )
        )
        assert [found[:1] for found in many] == few
        assert {len(found) for found in many} == {1 + MORE}
        assert [found[:1] for found in deep] != few
