"""A passage to the token sequences its delta is fitted to.

passage    the text, as the base model's ``document`` prompt has it
prag       PRAG's training set (arXiv 2501.15915, section 3.1): of n question-answer pairs the
           first (n + 1) // 2 appear twice, with the passage and with its rewrite in the prompt;
           the others without any passage. Three pairs give five sequences.
questions  each pair without the passage
facts      each atomic fact as a text, and its pairs without the passage (KnowledgeUpdate)
reading    the text and what ``reading.tasks_of`` mines from it, as one text
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adapterdb.errors import Rejected
from adapterdb.prompts import PromptEncoder
from adapterdb.records import Fact
from adapterdb.training.reading import reading_text
from adapterdb.training.recipes import Recipe


@dataclass(frozen=True)
class TrainingPassage:
    """What a delta is made from.

    Args:
        title: of its document, or empty.
        text: of the passage.
        rewrite: a paraphrase, for ``prag``.
        qa: question and answer pairs, for ``prag`` and ``questions``.
        facts: atomic facts with their own pairs, for ``facts``.
    """

    title: str
    text: str
    rewrite: str = ""
    qa: tuple[tuple[str, str], ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, from which position on they carry loss (0: all but the first), and how much.

    ``weights``, where given, has one number >= 0 for each id: what its own loss counts.
    """

    ids: tuple[int, ...]
    loss_from: int = 0
    weights: tuple[float, ...] | None = None


def sequences_of(
    passage: TrainingPassage, recipe: Recipe, encoder: PromptEncoder
) -> list[TokenSequence]:
    """The sequences of one passage, in the order they are trained on, without weights.

    Raises:
        Rejected: code ``no_augmentation`` if the recipe needs a rewrite, Q&A or facts that are not
            there; code ``empty`` if there is no token to learn from.
    """
    if recipe.sequences == "prag":
        found = _prag(passage, recipe, encoder)
    elif recipe.sequences == "questions":
        _need(passage.qa, recipe, "question-answer pairs", "prag")
        found = [_blind(pair, recipe, encoder) for pair in passage.qa]
    elif recipe.sequences == "facts":
        found = _facts(passage, recipe, encoder)
    else:
        text = (
            reading_text(passage.title, passage.text)
            if recipe.sequences == "reading"
            else passage.text
        )
        found = [document_sequence(encoder, passage.title, text, recipe.max_tokens)]
    found = [_cut(sequence, recipe.max_tokens or encoder.max_length) for sequence in found]
    if any(len(sequence.ids) <= max(sequence.loss_from, 1) for sequence in found):
        raise Rejected("the passage has no token to learn from", code="empty")
    return found


def weighed_sequences(
    passages: Sequence[TrainingPassage],
    recipe: Recipe,
    encoder: PromptEncoder,
    weigh: Callable[[Sequence[TrainingPassage]], Sequence[Sequence[float]]] | None = None,
) -> list[list[TokenSequence]]:
    """``sequences_of`` each passage, its text's tokens weighed.

    Args:
        weigh: numbers >= 0 for the text ids of each passage's ``encoder.document``; None: all
            alike.

    Raises:
        Rejected: as ``sequences_of``.
    """
    found = [sequences_of(passage, recipe, encoder) for passage in passages]
    if weigh is None:
        return found
    return [
        [_weighed(sequence, weights) for sequence in sequences]
        for sequences, weights in zip(found, weigh(passages), strict=True)
    ]


def document_sequence(
    encoder: PromptEncoder, title: str, text: str, limit: int = 0
) -> TokenSequence:
    """What a delta of a passage is fitted to, as one sequence.

    Args:
        encoder: of the base model.
        title, text: the passage.
        limit: of its ids; 0 means what the base model takes.
    """
    prompt, ids = encoder.document(title, text, limit or None)
    return TokenSequence((*prompt, *ids), len(prompt))


def _weighed(sequence: TokenSequence, weights: Sequence[float]) -> TokenSequence:
    """A document with weights of its text; its prompt has none."""
    learned = len(sequence.ids) - sequence.loss_from
    return replace(sequence, weights=(0.0,) * sequence.loss_from + tuple(weights[:learned]))


def _prag(passage: TrainingPassage, recipe: Recipe, encoder: PromptEncoder) -> list[TokenSequence]:
    _need(passage.rewrite and passage.qa, recipe, "a rewrite and question-answer pairs", "prag")
    with_text = (len(passage.qa) + 1) // 2
    sequences = []
    for question, answer in passage.qa[:with_text]:
        for text in (passage.text, passage.rewrite):
            room = encoder.prompts.max_new_tokens
            ids, _ = encoder.context(question, [(passage.title, text)], room)
            sequences.append(_answered(ids, answer, recipe, encoder))
    return sequences + [_blind(pair, recipe, encoder) for pair in passage.qa[with_text:]]


def _facts(passage: TrainingPassage, recipe: Recipe, encoder: PromptEncoder) -> list[TokenSequence]:
    _need(passage.facts, recipe, "atomic facts", "facts")
    sequences = []
    for fact in passage.facts:
        sequences.append(document_sequence(encoder, passage.title, fact.text, recipe.max_tokens))
        sequences += [_blind(pair, recipe, encoder) for pair in fact.qa]
    return sequences


def _blind(pair: tuple[str, str], recipe: Recipe, encoder: PromptEncoder) -> TokenSequence:
    return _answered(encoder.blind(pair[0]), pair[1], recipe, encoder)


def _answered(
    prompt: list[int], answer: str, recipe: Recipe, encoder: PromptEncoder
) -> TokenSequence:
    whole = (*prompt, *encoder.answer(answer))
    return TokenSequence(whole, len(prompt) if recipe.mask == "answer" else 0)


def _cut(sequence: TokenSequence, length: int) -> TokenSequence:
    return replace(sequence, ids=sequence.ids[:length])


def _need(found: object, recipe: Recipe, what: str, write: str) -> None:
    if not found:
        raise Rejected(
            f"recipe {recipe.name!r} needs {what} with the document",
            code="no_augmentation",
            hint=f"'adb augment --write {write}' writes them, or use recipe 'rg'",
        )
