"""What a passage's delta is fitted to, recipe by recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapterdb.base_model import load_base_model
from adapterdb.errors import Rejected
from adapterdb.prompts import PromptEncoder, Prompts
from adapterdb.records import Fact
from adapterdb.training.objective import (
    TokenSequence,
    TrainingPassage,
    sequences_of,
    weighed_sequences,
)
from adapterdb.training.recipes import get_recipe

PAIR, OTHER = ("Who rowed?", "Mara"), ("Where to?", "Oste")
PASSAGE = TrainingPassage(
    "Boats", "Mara rowed to Oste.", "To Oste Mara rowed.", (PAIR, OTHER, ("When?", "1804")),
    (Fact("Mara rowed.", (PAIR,), held_out=(("Rowed by?", "Mara"),)), Fact("Oste is far.")),
)  # fmt: skip


@pytest.fixture
def encoder(tiny_folder: Callable[[str], Path]) -> PromptEncoder:
    return load_base_model(str(tiny_folder("llama")), dtype="float32").encoder


def blind(encoder: PromptEncoder, pair: tuple[str, str], *, masked: bool) -> TokenSequence:
    prompt = encoder.blind(pair[0])
    return TokenSequence((*prompt, *encoder.answer(pair[1])), len(prompt) if masked else 0)


def test_questions_are_asked_without_the_passage(encoder: PromptEncoder) -> None:
    found = sequences_of(PASSAGE, get_recipe("questions", has_meta_init=False), encoder)
    assert found == [blind(encoder, pair, masked=True) for pair in PASSAGE.qa]


def test_facts_are_said_and_asked_and_held_out_pairs_are_not(encoder: PromptEncoder) -> None:
    recipe = get_recipe("knowledge", has_meta_init=False)
    assert sequences_of(PASSAGE, recipe, encoder) == [
        TokenSequence(tuple(encoder.document("Boats", "Mara rowed.").text)),
        blind(encoder, PAIR, masked=True),
        TokenSequence(tuple(encoder.document("Boats", "Oste is far.").text)),
    ]


def test_prag_has_five_sequences_of_three_pairs(encoder: PromptEncoder) -> None:
    recipe = get_recipe("prag", has_meta_init=False)
    found = sequences_of(PASSAGE, recipe, encoder)
    assert [s.loss_from for s in found] == [0] * 5
    texts = [encoder.decode(s.ids) for s in found]
    assert [("Mara rowed to" in t, "To Oste Mara" in t) for t in texts] == [
        (True, False), (False, True), (True, False), (False, True), (False, False),
    ]  # fmt: skip
    masked = sequences_of(PASSAGE, replace(recipe, mask="answer"), encoder)
    for plain, answer in zip(found, masked, strict=True):
        assert plain.ids == answer.ids
        assert encoder.decode(answer.ids[answer.loss_from :]).strip() in ("Mara", "Oste", "1804")


@pytest.mark.parametrize("name", ["prag", "questions", "knowledge"])
def test_what_was_not_written_is_asked_for(name: str, encoder: PromptEncoder) -> None:
    with pytest.raises(Rejected) as error:
        sequences_of(TrainingPassage("", "Text."), get_recipe(name, has_meta_init=False), encoder)
    assert error.value.code == "no_augmentation"


def test_sequences_are_cut(encoder: PromptEncoder) -> None:
    recipe = get_recipe("rg", has_meta_init=False)
    (whole,) = sequences_of(PASSAGE, recipe, encoder)
    (cut,) = sequences_of(PASSAGE, replace(recipe, max_tokens=7), encoder)
    assert cut.ids == whole.ids[:7]
    with pytest.raises(Rejected) as error:
        sequences_of(PASSAGE, replace(recipe, max_tokens=1), encoder)
    assert error.value.code == "empty"


def test_weights_go_with_the_tokens_of_the_document(encoder: PromptEncoder) -> None:
    recipe = replace(get_recipe("rg", has_meta_init=False), max_tokens=9)
    ids = encoder.document("Boats", PASSAGE.text).text
    ((plain,),) = weighed_sequences([PASSAGE], recipe, encoder)
    assert plain.weights is None
    ((weighed,),) = weighed_sequences(
        [PASSAGE], recipe, encoder, lambda passages: [range(len(ids)) for _ in passages]
    )
    assert weighed.weights == tuple(range(9))


def test_a_documents_prompt_carries_no_loss(encoder: PromptEncoder) -> None:
    """The sequence is prompt and text, its loss and weights begin with the text; a cut keeps it."""
    prompts = Prompts(document_prompt="{passages} | ", document="{passages}.")
    behind = PromptEncoder(prompts, encoder._tokenizer, 200)
    recipe = get_recipe("rg", has_meta_init=False)
    before, text = behind.document("Boats", PASSAGE.text)
    ((found,),) = weighed_sequences(
        [PASSAGE], recipe, behind, lambda passages: [[2.0] * len(text) for _ in passages]
    )
    assert (found.ids, found.loss_from) == ((*before, *text), len(before))
    assert found.weights == (0.0,) * len(before) + (2.0,) * len(text)
    (cut,) = sequences_of(PASSAGE, replace(recipe, max_tokens=len(text) + 5), behind)
    assert cut.ids == (*before[:2], *before[-3:], *text)
    assert cut.loss_from == 5
