"""Options by likelihood: real scores of a real home, rules and controls checked against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from adapterdb.benchmark.bench import Bench
from adapterdb.benchmark.outcome import Measured, Table
from adapterdb.benchmark.protocols.choice import choice
from adapterdb.errors import InvalidInput
from adapterdb.evaluation.question import Dataset, Question

MakeBench = Callable[..., Bench]


def with_options(dataset: Dataset) -> Dataset:
    """Each question with the answers of the next two as well."""
    said = [question.answers[0] for question in dataset.questions]
    return dataset.of([
        replace(question, choices=tuple(sorted({*said[i : i + 3], question.answers[0]})))
        for i, question in enumerate(dataset.questions)
    ])  # fmt: skip


def cells_of(table: Table) -> Mapping[str, Measured]:
    """By name."""
    return {measured.cell.name: measured for measured in table.cells}


@pytest.fixture(scope="module")
def options_bench(make_bench: MakeBench, dataset: Dataset) -> Bench:
    """Twelve questions with options of their own."""
    return make_bench(of=with_options(dataset), modes=("base", "rag", "adapter"))


@pytest.fixture(scope="module")
def table(options_bench: Bench) -> Table:
    """What the protocol makes of them."""
    return choice(options_bench)


def test_options_are_scored_as_the_home_scores_them(options_bench: Bench, table: Table) -> None:
    """Every cell's nats are those of ``score``, asked in the same way."""
    db = options_bench.home()
    question = options_bench.questions[2]
    texts = [f" {option}" for option in question.choices]
    ways: dict[str, Any] = {
        "base": {"mode": "base"},
        "rag k=1": {"mode": "rag", "k": 1},
        "own delta": {"mode": "adapter", "given": [["velm"]]},
        "shifted delta": {"mode": "adapter", "given": [["pradel"]]},
    }
    seen = set()
    for name, how in ways.items():
        (found,) = db.score([question.question], [texts], **how)
        outcome = cells_of(table)[name].outcomes[2]
        kept = outcome.extra["nats_a_token"]
        assert list(kept.values()) == pytest.approx([o.mean for o in found], rel=1e-3)
        assert outcome.scores["nll"] == kept["Otto Sarn"]
        seen.add(kept["Otto Sarn"])
    assert len(seen) == len(ways)  # each way acts


def test_each_rule_chooses_by_its_own_number(options_bench: Bench, table: Table) -> None:
    """Mean, sum, and mean less what an option costs after a question that says nothing."""
    db = options_bench.home()
    differ = 0
    for question, outcome in zip(options_bench.questions, table.cells[0].outcomes, strict=True):
        texts = [f" {option}" for option in question.choices]
        (found,) = db.score([question.question], [texts], mode="base")
        (alone,) = db.score(["N/A"], [texts], mode="base")
        rules = {
            "accuracy": [o.mean for o in found],
            "accuracy_sum": [o.nats for o in found],
            "accuracy_pmi": [o.mean - n.mean for o, n in zip(found, alone, strict=True)],
        }
        picked = {
            metric: question.choices[numbers.index(min(numbers))]
            for metric, numbers in rules.items()
        }
        assert outcome.text == picked["accuracy"]
        for metric, option in picked.items():
            assert outcome.scores[metric] == (option in question.answers)
        differ += len(set(picked.values())) > 1
    assert differ  # so that a mix-up of the rules would be seen


def test_text_is_read_and_controls_are_there(table: Table) -> None:
    """The passages name the answers, so that reading them beats guessing."""
    cells = cells_of(table)
    assert [m.cell.control for m in table.cells] == [
        "", "", "", "own", "own", "own", "shifted", "random", "task-SFT", "task-SFT", "chance",
    ]  # fmt: skip

    def accuracy(name: str) -> float:
        outcomes = cells[name].outcomes
        return sum(o.scores["accuracy"] for o in outcomes) / len(outcomes)

    assert accuracy("chance") == pytest.approx((10 / 3 + 1 / 2 + 1) / 12)
    assert accuracy("own text") > accuracy("chance")
    assert cells["task-SFT and rag k=1"].cell.mode == "hybrid"
    gains = {figure.name: figure.value for figure in table.figures}
    apart = accuracy("own delta") - accuracy("shifted delta")
    assert gains["knowledge gain"] == pytest.approx(100 * apart)
    assert not any(name.startswith("macro-F1") for name in gains)  # options are no classes


def test_a_run_that_was_killed_scores_nothing_again(options_bench: Bench, table: Table) -> None:
    """All results of a second run are the journal's."""
    kept = len(options_bench.journal)
    assert choice(options_bench) == table
    assert len(options_bench.journal) == kept


def test_classes_without_passages(make_bench: MakeBench) -> None:
    """Labels shared by all: the commonest as a control, macro-F1, and no search."""
    asked = [
        ("Is snow cold?", "yes"),
        ("Is fire wet?", "no"),
        ("Is ice hard?", "yes"),
        ("Is sand food?", "no"),
        ("Is milk white?", "yes"),
        ("Is wood glass?", "maybe"),
    ]
    questions = tuple(
        Question(f"q{i}", question, (answer,), choices=("maybe", "no", "yes"))
        for i, (question, answer) in enumerate(asked)
    )  # fmt: skip
    table = choice(make_bench(of=Dataset("labels", questions, {})))
    cells = cells_of(table)
    assert list(cells) == ["base", "task-SFT", "majority class", "chance"]
    assert [o.text for o in cells["majority class"].outcomes] == ["yes"] * 6
    figures = {figure.name: figure.value for figure in table.figures}
    # F1 of yes: precision 3/6, recall 1; of the other two 0
    assert figures["macro-F1: majority class"] == pytest.approx(100 * (2 / 3) / 3)
    assert "macro-F1: base" in figures
    assert "macro-F1: chance" not in figures
    assert any("no passages" in note for note in table.notes)


def test_questions_without_options_are_left_out_or_refused(
    make_bench: MakeBench, dataset: Dataset
) -> None:
    """One that has none is said; all of them, or a right answer that is no option, is an error."""
    first, second, *_ = dataset.questions
    wrong = replace(second, choices=("twelve", "nine"))
    with pytest.raises(InvalidInput, match="no question with options"):
        choice(make_bench(of=dataset.of([first])))
    with pytest.raises(InvalidInput, match=r"'oste-1' has the answer 'Eleven', .*'twelve'"):
        choice(make_bench(of=dataset.of([first, wrong])))
    good = replace(second, choices=("Eleven", "nine"))
    few = make_bench(of=dataset.of([first, good]), modes=("base", "auto"), controls=False)
    table = choice(few)
    assert [o.question for o in table.cells[0].outcomes] == ["oste-1"]
    assert table.notes[0].startswith("1 questions without options")
    assert any("auto" in note for note in table.notes)
    assert list(cells_of(table)) == ["base"]
