"""Which of what was written about a document belongs to one of its passages."""

from __future__ import annotations

from adapterdb.records import Document, Fact, Passage

Pairs = tuple[tuple[str, str], ...]


def augmentation_of(document: Document, passage: Passage) -> tuple[str, Pairs, tuple[Fact, ...]]:
    """Rewrite, question-answer pairs and facts of a passage; empty where nothing was written.

    What is written about a span belongs to the passage that holds the span's middle. The document's
    own ``rewrite`` and ``qa`` are of its one passage, and of none where it makes several.
    """
    own = [
        entry
        for entry in document.augmented
        if passage.start <= (entry.start + entry.end) / 2 < passage.end
    ]
    rewrites = [entry.rewrite for entry in own if entry.rewrite]
    pairs = tuple(pair for entry in own for pair in entry.qa)
    facts = tuple(fact for entry in own for fact in entry.facts)
    alone = passage.ordinal == 0 and not document.text[passage.end :].strip()
    if alone:
        rewrites = rewrites or [document.rewrite]
        pairs = pairs or document.qa
    return " ".join(rewrites), pairs, facts
