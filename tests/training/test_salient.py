"""Names and dates are found, numbers of other kinds are not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.training.weights.salient import rule_spans, spacy_finder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Mara Lind rowed to Oste.", ["Mara Lind", "Oste"]),
        ("The University of the South sent her.", ["University of the South"]),
        ("It was John F. Kennedy and Dr. Ray.", ["John F. Kennedy", "Dr. Ray"]),
        ("Boats sank. Boats are red.", []),
        ("Ade won. They met Ade there.", ["Ade", "Ade"]),
        ("On 5 June 1999, in 1804 and in the 1990s.", ["5 June 1999", "1804", "1990s"]),
        ("On May 12, 2008 or 2001-03-04, a Monday.", ["May 12, 2008", "2001-03-04", "Monday"]),
        ("During the 19th century.", ["the 19th century"]),
        ("May I ask? She may go.", []),
        ("It was the second, the 2nd and the first.", []),
        ("It took 15% or 20 percent of 1500 seats.", []),
        ("It cost $2000, €1900 or 3 million dollars.", []),
        ("At 5:30 p.m. or 02:28 PM it rose 1200 m.", []),
        ("She has twelve goats, 69,197 hens and 1,804 ducks.", []),
        ("", []),
    ],
)
def test_spans_of_rules(text: str, found: list[str]) -> None:
    """The rules find exactly these spans."""
    assert [text[start:end] for start, end in rule_spans(text)] == found


def test_spans_are_sorted_and_apart() -> None:
    """Spans come in order and never overlap, whatever the text."""
    text = "In May 1804 Mara May met MAY and Sunday on May 5 in the May of 1999. NASA 1999s May"
    spans = rule_spans(text)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(start < end for start, end in spans)


def test_spacy_pipeline_drops_numbers(tmp_path: Path) -> None:
    """With an installed spaCy pipeline its entities count, less the numeric kinds."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    patterns = [
        {"label": "PERSON", "pattern": "Mara"}, {"label": "DATE", "pattern": "1804"},
        {"label": "MONEY", "pattern": "twelve crowns"}, {"label": "ORDINAL", "pattern": "third"},
    ]  # fmt: skip
    pipeline.add_pipe("entity_ruler").add_patterns(patterns)
    pipeline.to_disk(tmp_path / "rules")
    text = "Mara paid twelve crowns in 1804 for the third boat."
    found = spacy_finder(str(tmp_path / "rules"))(text)
    assert [text[a:b] for a, b in found] == ["Mara", "1804"]


def test_missing_pipeline_is_named() -> None:
    """A pipeline that isn't installed is an error that names it."""
    with pytest.raises(InvalidInput, match="en_nowhere"):
        spacy_finder("en_nowhere")
