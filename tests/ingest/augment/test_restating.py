"""Sentences said again from their bare words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapterdb.ingest.augment.augmenter import Augmenter
from adapterdb.ingest.augment.generator import Sampling, Skill
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.restating import says_the_same
from adapterdb.ingest.augment.sketch import sketch
from adapterdb.ingest.readers import read_documents
from adapterdb.records import Document

TEXT = "The weir of Almery was raised by Ann Torv in 1790. It fell."


class Framer:
    """Says the words of a sketch in a frame of its own; asks nothing that could be answered."""

    name, fingerprint, at_once = "framer", "1", 4
    skill: Skill = "sentences"

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Only sketches are answered."""
        rows = [json.loads(prompt) for prompt in prompts]
        return [self.frame.format(row["restate"]) if "restate" in row else "" for row in rows]


def written(tmp_path: Path, frame: str) -> tuple[str, list[str]]:
    out = tmp_path / "rows.jsonl"
    plan = AugmentPlan(write=("prag",))
    report = Augmenter(Framer(frame), plan, lambda text: len(text.split()), out).run(
        [Document("d", TEXT)]
    )
    [document] = read_documents(out)
    assert isinstance(document, Document)
    rewrite = document.augmented[0].rewrite if document.augmented else ""
    return rewrite, [lack.step for lack in report.lacks]


def test_a_sketch_keeps_what_is_said() -> None:
    """Names, numbers and negations stay, grammar goes; the seed decides the order."""
    text = "It was not raised by Ann Torv, in 1,790, for $40."
    orders = {tuple(sketch(text, random.Random(seed))) for seed in range(20)}
    assert {tuple(sorted(order)) for order in orders} == {
        ("$", "1,790", "40", "Ann", "Torv", "not", "raised")
    }
    assert len(orders) > 3
    assert sketch("", random.Random(0)) == sketch("it was", random.Random(0)) == []


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("in 1790 ann torv raised the weir of almery.", True),
        ("The weir of Almery was raised by Ann Torv in 1790!", False),  # the same words
        ("in 1791 ann torv raised the weir of almery.", False),
        ("in 1790 ann raised the weir of almery.", False),
        ("in 1790 ann torv raised nothing but the weir of almery.", False),
        ("ann torv of almery, in 1790, raised a weir, farms, hopes and spirits.", False),
        ("", False),
    ],
)
def test_only_another_wording_of_the_same_counts(said: str, same: bool) -> None:
    """A lost name or number, a new thing said, a negation: not the same."""
    assert says_the_same("The weir of Almery was raised by Ann Torv in 1790.", said) is same


def test_a_passage_is_restated_sentence_by_sentence(tmp_path: Path) -> None:
    """What can't be said anew stays as it was."""
    rewrite, lacks = written(tmp_path, "there was {}.")
    assert rewrite.startswith("there was ")
    assert rewrite.endswith(" It fell.")
    assert {"weir", "Almery", "Ann", "Torv", "1790"} <= set(rewrite.replace(".", "").split())
    assert "rewrite" not in lacks


def test_what_nobody_could_restate_is_lacking(tmp_path: Path) -> None:
    """Wordings that lose what is said are not stored."""
    assert written(tmp_path, "something else.") == ("", ["qa", "rewrite"])
