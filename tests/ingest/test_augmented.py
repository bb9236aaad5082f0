"""What was written about a document goes to the passages it was written about."""

from __future__ import annotations

from adapterdb.ingest.augmented import augmentation_of
from adapterdb.records import Augmentation, Document, Fact, Passage

TEXT = "The mill stands by the weir. The bridge was built in 1790."
FIRST, SECOND = Passage(0, 0, 28, TEXT[:28], 6), Passage(1, 29, 58, TEXT[29:], 6)
FACT = Fact("The bridge was built in 1790.", (("When was the bridge built?", "1790"),))


def test_a_span_belongs_to_the_passage_that_holds_its_middle() -> None:
    written = (
        Augmentation(0, 30, rewrite="By the weir stands the mill."),
        Augmentation(25, 58, qa=(("What is old?", "the bridge"),), facts=(FACT,)),
    )
    document = Document("m", TEXT, augmented=written)
    assert augmentation_of(document, FIRST) == ("By the weir stands the mill.", (), ())
    assert augmentation_of(document, SECOND) == ("", (("What is old?", "the bridge"),), (FACT,))


def test_spans_of_smaller_passages_add_up() -> None:
    written = (Augmentation(0, 28, rewrite="One."), Augmentation(29, 58, rewrite="Two."))
    whole = Passage(0, 0, 58, TEXT, 12)
    assert augmentation_of(Document("m", TEXT, augmented=written), whole)[0] == "One. Two."


def test_a_document_s_own_rewrite_is_of_its_only_passage() -> None:
    document = Document("m", TEXT + "\n", rewrite="Both.", qa=(("What?", "Mill"),))
    whole = Passage(0, 0, 58, TEXT, 12)
    assert augmentation_of(document, whole) == ("Both.", (("What?", "Mill"),), ())
    assert augmentation_of(document, FIRST) == ("", (), ())
    assert augmentation_of(document, SECOND) == ("", (), ())
