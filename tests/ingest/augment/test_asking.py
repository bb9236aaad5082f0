"""Facts and questions of a model that can only ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.ingest.augment.asking import overlap
from adapterdb.ingest.augment.augmenter import Augmenter, AugmentReport
from adapterdb.ingest.augment.generator import Sampling, Skill
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.spans import answer_spans
from adapterdb.ingest.readers import read_documents
from adapterdb.records import Augmentation, Document

TEXT = (
    "The weir of Almery was raised in 1790. It drowned two farms. "
    "Kestle market opens at noon each Sunday. Oh dear!"
)


class Asker:
    """Asks for a span by its place among the passage's words; forgets what stands in ``lost``."""

    name, fingerprint, at_once = "asker", "1", 4
    skill: Skill = "questions"

    def __init__(self, *lost: str) -> None:
        self.lost = lost
        self.read: list[str] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Questions hold the seed, so that each round words them anew."""
        return [self._one(json.loads(prompt), sampling.seed) for prompt in prompts]

    def _one(self, prompt: dict[str, str], seed: int) -> str:
        if "ask" in prompt:
            code = prompt["ask"].encode().hex()
            return f"which words are meant in round {seed} by {code}? and more"
        self.read.append(prompt["text"])
        answer = bytes.fromhex(prompt["question"].rstrip("?").split()[-1]).decode()
        return "no idea" if answer in self.lost else answer.lower()


def write(
    tmp_path: Path, asker: Asker, plan: AugmentPlan, title: str = ""
) -> tuple[AugmentReport, Augmentation]:
    out = tmp_path / "rows.jsonl"
    report = Augmenter(asker, plan, lambda text: len(text.split()), out).run(
        [Document("d", TEXT, title)]
    )
    [document] = read_documents(out)
    assert isinstance(document, Document)
    return report, document.augmented[0]


def test_sentences_become_facts_with_questions(tmp_path: Path) -> None:
    """Each answered again, drawn ones until there are enough; one phrasing of two is held out."""
    asker = Asker()
    report, written = write(tmp_path, asker, AugmentPlan(qa_per_fact=3, roles=1))
    assert [fact.text for fact in written.facts] == [
        "The weir of Almery was raised in 1790.", "Kestle market opens at noon each Sunday.",
    ]  # fmt: skip
    fact = written.facts[0]
    assert (len(fact.qa), len(fact.held_out)) == (3, 2)
    assert {answer for _, answer in fact.held_out} <= {answer for _, answer in fact.qa}
    assert not {q for q, _ in fact.held_out} & {q for q, _ in fact.qa}
    assert all(q.endswith("?") and "more" not in q for q, _ in fact.qa)
    assert set(asker.read) == {TEXT}  # asked again with the whole passage
    assert report.skipped["SKIP: fact begins with a pronoun or leans on another"] == 1
    assert any("no roles" in note for note in report.notes)
    assert fact.roles == ()


def test_a_title_lets_a_sentence_stand_alone(tmp_path: Path) -> None:
    """With it, what begins with a pronoun is a fact too."""
    _, written = write(tmp_path, Asker(), AugmentPlan(), title="Almery")
    assert written.facts[1].text == "Almery: It drowned two farms."


def test_questions_that_are_not_answered_again_do_not_count(tmp_path: Path) -> None:
    """What the model can't answer itself is left out; a fact without any is uncovered."""
    spans = answer_spans("The weir of Almery was raised in 1790.", 4)
    report, written = write(tmp_path, Asker(*spans), AugmentPlan())
    assert report.uncovered == (("d", 0, "The weir of Almery was raised in 1790."),)
    assert written.facts[0].qa == ()
    assert report.skipped["SKIP: the model did not answer its own question again"] == 4 * len(spans)


def test_rewrites_stay_empty(tmp_path: Path) -> None:
    """PRAG's questions come, its paraphrase does not, and that is said."""
    report, written = write(tmp_path, Asker(), AugmentPlan(write=("prag",)))
    assert (len(written.qa), written.rewrite) == (3, "")
    assert any("rewrites stay empty" in note for note in report.notes)


def test_tags_are_refused(tmp_path: Path) -> None:
    """A model that only asks writes no descriptions."""
    with pytest.raises(InvalidInput, match="tags"):
        write(tmp_path, Asker(), AugmentPlan(write=("facts", "tags")))


def test_answer_spans() -> None:
    """Dates, numbers, names, nouns, in this order; none within another."""
    text = "On 3 May 1874 Hanna Torv of Sedd paid 40,000 crowns for the narrow lighthouse."
    assert answer_spans(text, 9) == [
        "3 May 1874", "40,000 crowns", "Hanna Torv of Sedd", "narrow lighthouse",
    ]  # fmt: skip
    assert answer_spans(text, 1) == ["3 May 1874"]
    assert answer_spans("It was not so.", 9) == []


def test_overlap() -> None:
    """F1 over words, articles aside."""
    assert overlap("The Weir", "weir") == 1.0
    assert overlap("old weir", "weir") == pytest.approx(2 / 3)
    assert overlap("mill", "weir") == overlap("", "") == 0.0
