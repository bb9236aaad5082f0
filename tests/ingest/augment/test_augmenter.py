"""The whole of it, with a model behind a real server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from chat_process import ChatServer

from adapterdb.config import ChunkConfig
from adapterdb.errors import Exists, InvalidInput, Mismatch, ModelUnavailable
from adapterdb.ingest.augment.augmenter import Augmenter, AugmentReport, journal_path
from adapterdb.ingest.augment.generator import TextGenerator
from adapterdb.ingest.augment.journal import Recorded
from adapterdb.ingest.augment.parse import same_words
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.readers import Rejection, read_documents
from adapterdb.records import Document

PLAN = AugmentPlan(chunk=ChunkConfig(16))
TEXT = "The weir of Almery rose in spring. The mill of Sedd burned down.\n\n"
HARBOUR = Document("harbour", TEXT, "Harbour", metadata={"year": 1874, "tag": ["water"]})


def words(text: str) -> int:
    """A tokenizer for cutting passages."""
    return len(text.split())


def run(
    generator: TextGenerator,
    out: Path,
    *documents: Document | Rejection,
    plan: AugmentPlan = PLAN,
    resume: bool = True,
) -> AugmentReport:
    return Augmenter(generator, plan, words, out, resume=resume).run(documents or (HARBOUR,))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_knowledge_update(server: ChatServer, out: Path) -> None:
    """Facts come with ten pairs in three voices, the last with what is left, and two held out."""
    report = run(server.endpoint(), out)
    [row] = rows(out)
    [entry] = row["augmented"]
    assert row["text"][entry["start"] : entry["end"]] == TEXT.strip()
    assert entry["theme"] == "Harbour works"
    assert [fact["text"] for fact in entry["facts"]] == [
        "The weir of Almery rose in spring.", "The mill of Sedd burned down.",
    ]  # fmt: skip
    for fact in entry["facts"]:
        assert fact["roles"] == [f"asker of kind {i}" for i in (1, 1, 1, 2, 2, 2, 3, 3, 3, 3)]
        asked = [same_words(p["question"]) for p in fact["qa"] + fact["held_out"]]
        assert len(set(asked)) == 12
        assert {pair["answer"] for pair in fact["qa"]} == {fact["text"].split()[-1].rstrip(".")}
    assert row["augmented_by"]["generator_fingerprint"] == server.endpoint().fingerprint
    assert row["augmented_by"]["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (row["year"], row["tag"]) == (1874, ["water"])
    counted = (report.written, report.facts, report.pairs, report.held_out, report.lacks)
    assert counted == (1, 2, 20, 4, ())


def test_rows_are_documents_to_ingest(server: ChatServer, out: Path) -> None:
    """What is written is read back whole."""
    run(server.endpoint(), out, plan=AugmentPlan(write=("facts", "prag", "tags")))
    [document] = read_documents(out)
    assert isinstance(document, Document)
    [entry] = document.augmented
    assert entry.rewrite.startswith("Said anew: The weir")
    assert entry.qa[0] == ("0?", "down")
    assert len(entry.facts[0].qa) == len(entry.facts[0].roles) == 10
    assert len(entry.facts[1].held_out) == 2
    assert document.metadata == {
        "year": 1874,
        "tag": ["water", "tag 0", "tag 1", "tag 2", "tag 3", "tag 4"],
        "description": "A text on down.",
    }


def test_rubbish_is_asked_again_and_then_reported(server: ChatServer, out: Path) -> None:
    """Another seed may help; where none does, the lack is listed, and the rest goes on."""
    stubborn = Document("s", "A stubborn goat ate hay.")
    hopeless = Document("h", "A hopeless goat ate hay.")
    report = run(server.endpoint(), out, stubborn, hopeless, HARBOUR)
    by_id = {row["id"]: row for row in rows(out)}
    assert len(by_id["s"]["augmented"][0]["facts"][0]["qa"]) == 10
    assert "facts" not in by_id["h"]["augmented"][0]
    assert [(lack.document, lack.step) for lack in report.lacks] == [("h", "theme"), ("h", "facts")]
    # once each: theme, facts, seed, held-out and three roles; thrice each: theme and facts
    assert report.retried == 7 + 6
    assert report.failed == 0


def test_a_fact_without_questions_is_uncovered(server: ChatServer, out: Path) -> None:
    """Its passage is fine, its own questions never come: it stays, and is listed."""
    text = "A hopeless goat ate hay. The barn of Ombrey is red."
    passages = AugmentPlan(chunk=ChunkConfig(16), write=("facts",))

    class Softened:
        """Asks about the passage as a whole without the word that spoils it."""

        def __init__(self, inner: TextGenerator) -> None:
            self.inner = inner
            self.name, self.fingerprint = "soft", "soft"
            self.skill, self.at_once = inner.skill, inner.at_once

        def generate(self, prompts: list[str], sampling: Any) -> list[str]:
            soft = [p if "A fact from" in p else p.replace("hopeless", "hope") for p in prompts]
            told = self.inner.generate(soft, sampling)
            return [text.replace("hope goat", "hopeless goat") for text in told]

    report = run(Softened(server.endpoint()), out, Document("g", text), plan=passages)
    assert report.uncovered == (("g", 0, "A hopeless goat ate hay."),)
    assert [lack.step for lack in report.lacks] == ["seed"]
    facts = rows(out)[0]["augmented"][0]["facts"]
    assert [len(fact["qa"]) for fact in facts] == [0, 10]


def test_skipped_facts_are_counted(server: ChatServer, out: Path) -> None:
    """SKIP, pronouns and repetitions are left out on purpose, by reason."""
    text = "The weather is good. It rose early. Ann rose at six. Ann rose at six."
    report = run(server.endpoint(), out, Document("a", text))
    assert [fact["text"] for fact in rows(out)[0]["augmented"][0]["facts"]] == ["Ann rose at six."]
    assert sorted(report.skipped.values()) == [1, 1, 1]


def test_the_same_again_costs_nothing(server: ChatServer, out: Path) -> None:
    """Done documents are kept; another text or another plan is written anew, one row each."""
    run(server.endpoint(), out)
    asked, before = len(server.log()), out.read_bytes()
    report = run(server.endpoint(), out)
    assert (report.kept, report.written, report.facts, report.asked) == (1, 0, 2, 0)
    assert (len(server.log()), out.read_bytes()) == (asked, before)
    changed = Document("harbour", "The mill of Sedd burned down.")
    report = run(server.endpoint(), out, Document("b", "Barley is grown."), changed)
    assert (report.kept, report.written) == (0, 2)
    assert [row["id"] for row in rows(out)] == ["harbour", "b"]
    assert rows(out)[0]["text"] == changed.text
    report = run(server.endpoint(), out, changed, plan=AugmentPlan(qa_per_fact=3))
    assert (report.written, report.pairs) == (1, 3)


def test_a_killed_run_goes_on(server: ChatServer, out: Path) -> None:
    """A torn row is cut off and written again out of the journal, which may be torn itself."""
    other = Document("other", "The barn of Ombrey is red.")
    run(server.endpoint(), out, HARBOUR, other)
    whole, asked = out.read_bytes(), len(server.log())
    out.write_bytes(whole[:-20])
    journal = journal_path(out)
    journal.write_bytes(journal.read_bytes()[:-20])
    report = run(server.endpoint(), out, HARBOUR, other)
    assert (report.kept, report.written, report.asked) == (1, 1, 1)
    assert out.read_bytes() == whole
    assert len(server.log()) == asked + 1


def test_repeated_from_the_journal(server: ChatServer, out: Path, tmp_path: Path) -> None:
    """With the journal as generator the same rows come without a model; new prompts fail."""
    run(server.endpoint(), out)
    asked = len(server.log())
    again = tmp_path / "again.jsonl"
    report = run(Recorded(journal_path(out)), again, HARBOUR, Document("new", "Hay is dry here."))
    assert again.read_bytes() == out.read_bytes()
    assert (report.written, report.failed) == (1, 1)
    assert report.lacks[0].reason.startswith("not_recorded")
    assert len(server.log()) == asked


def test_a_failing_model_ends_the_run(server: ChatServer, out: Path) -> None:
    """A refusal at once; other failures after three documents, which can be taken up again."""
    three = [Document(f"d{i}", f"Hall {i} is large.") for i in range(4)]
    with pytest.raises(ModelUnavailable) as caught:
        run(server.endpoint("shut"), out, *three)
    assert caught.value.code == "endpoint_refused"
    journal_path(out).unlink()
    with pytest.raises(ModelUnavailable):
        run(server.endpoint("down", retries=0), out, *three)
    assert len({row["messages"][0]["content"] for row in server.log()}) == 3
    assert not out.exists()


def test_rejected_documents_are_failures(server: ChatServer, out: Path) -> None:
    """What can't be read is counted with its reason."""
    report = run(server.endpoint(), out, Rejection("x.txt", "empty", "there is nothing"), HARBOUR)
    assert (report.failed, report.written) == (1, 1)
    assert report.lacks[0].to_dict() == {
        "document": "x.txt", "start": -1, "step": "document", "reason": "empty: there is nothing",
    }  # fmt: skip


def test_metadata_that_a_row_would_misread(server: ChatServer, out: Path) -> None:
    """A field that has another meaning in rows fails its document instead of being lost."""
    report = run(server.endpoint(), out, Document("x", "Hay is dry.", metadata={"qa": "none"}))
    assert report.lacks[0].reason.startswith("bad_metadata")


def test_files_of_others_are_left_alone(server: ChatServer, out: Path) -> None:
    """Rows that were written by hand are not continued, nor emptied."""
    out.write_text('{"id": "mine", "text": "Mine."}\n')
    for resume in (True, False):
        with pytest.raises(Exists):
            run(server.endpoint(), out, resume=resume)
    assert "Mine." in out.read_text()


def test_no_resume_writes_anew(server: ChatServer, out: Path) -> None:
    """Rows and journal start empty."""
    run(server.endpoint(), out, HARBOUR, Document("b", "Barley is grown."))
    asked = len(server.log())
    report = run(server.endpoint(), out, resume=False)
    assert [row["id"] for row in rows(out)] == ["harbour"]
    assert len(server.log()) - asked == report.asked > 0


def test_a_journal_of_another_model(server: ChatServer, out: Path) -> None:
    """Texts of two models are not mixed."""
    run(server.endpoint(), out)
    with pytest.raises(Mismatch):
        run(server.endpoint("slow"), out)


def test_bad_plans() -> None:
    """Numbers out of range and unknown things to write are refused."""
    for wrong in ({"qa_per_fact": 0}, {"roles": 11}, {"write": ("poems",)}, {"write": ()}):
        with pytest.raises(InvalidInput):
            AugmentPlan(**wrong)  # type: ignore[arg-type]
