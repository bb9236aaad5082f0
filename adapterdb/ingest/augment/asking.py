"""A base model whose main writing skill is to ask: an answer and a passage in, a question out.

Models such as mini follow no instructions. Their facts are sentences of the passage, their answers
are spans of those, and a question counts only if the model, given it with the whole passage, finds
the answer again. Asked with the sentence alone mini covers about twice as many sentences as with
the passage. Such models have no voices and tag nothing; those with a prompt for it restate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from adapterdb.base_model import BaseModel
from adapterdb.errors import InvalidInput
from adapterdb.ingest.augment.generator import Sampling, TextGenerator
from adapterdb.ingest.augment.local import LocalGenerator, generate_rows
from adapterdb.ingest.augment.parse import Pair, clean, same_words, words
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.restating import SENTENCE_TOKENS, restate
from adapterdb.ingest.augment.spans import answer_spans
from adapterdb.ingest.augment.written import Account, PassageWriting, Piece
from adapterdb.records import Fact
from adapterdb.training.sentences import sentences, stands_alone

FOUND_AGAIN = 0.5  # F1 between the answer asked for and the one the model gives
MIN_WORDS = 4  # of a sentence that is a fact, and of a question
SPANS = 4  # answers tried in a sentence
QUESTION_TOKENS = 32
DRAWN = 0.7


class AskingModel(LocalGenerator):
    """A base model as a generator whose prompts are JSON.

    ``{"ask": answer, "title", "text"}`` is continued by a question, ``{"question", "title",
    "text"}`` by an answer, ``{"restate": words}`` by a sentence: the base model's own templates.

    Raises:
        InvalidInput: if the base model has no template for asking.
    """

    def __init__(self, base: BaseModel, at_once: int = 16) -> None:
        if not base.encoder.prompts.ask:
            raise InvalidInput(f"base model {base.name!r} has no prompt for writing questions")
        super().__init__(base, at_once)
        self.skill = "sentences" if base.encoder.prompts.restate else "questions"

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """As `TextGenerator.generate`, for prompts made by this module."""
        rows = [self._encode(prompt) for prompt in prompts]
        room = self.base.encoder.max_length - max(map(len, rows), default=0)
        sampling = replace(sampling, max_tokens=max(1, min(sampling.max_tokens, room)))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = [""] * len(rows)
        for first in range(0, len(order), self.at_once):
            some = order[first : first + self.at_once]
            texts = generate_rows(self.base, [rows[i] for i in some], sampling)
            for i, text in zip(some, texts, strict=True):
                found[i] = text
        return found

    def _encode(self, prompt: str) -> list[int]:
        data, encoder = json.loads(prompt), self.base.encoder
        if "ask" in data:
            return encoder.ask(data["ask"], data["title"], data["text"], QUESTION_TOKENS)
        if "restate" in data:
            return encoder.restate(data["restate"], SENTENCE_TOKENS)
        room = encoder.prompts.max_new_tokens
        return encoder.context(data["question"], [(data["title"], data["text"])], room)[0]


@dataclass
class _Draft:
    """A text on its way to a fact, ``source`` as it was said: questions by the answer they want."""

    text: str
    source: str
    answers: list[str]
    questions: dict[str, list[str]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.questions.values())

    def fact(self, plan: AugmentPlan) -> Fact:
        """The last phrasing of an answer that has another one too is held out."""
        held_out: list[Pair] = []
        learned: list[Pair] = []
        for answer, questions in self.questions.items():
            own = list(questions)
            if len(own) > 1 and len(held_out) < plan.held_out_per_fact:
                held_out.append((own.pop(), answer))
            learned += [(question, answer) for question in own]
        return Fact(self.text, tuple(learned[: plan.qa_per_fact]), tuple(held_out))


def ask_facts(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    plan: AugmentPlan,
    generator: TextGenerator,
    account: Account,
) -> None:
    """Fill in the facts of the passages of one document: its sentences, and questions on them."""
    seen: set[str] = set()
    for piece, own in zip(pieces, written, strict=True):
        drafts = _drafts(piece, seen, account)
        _ask_all(piece, drafts, plan.qa_per_fact + plan.held_out_per_fact, plan, generator, account)
        for draft in drafts:
            fact = draft.fact(plan)
            own.facts.append(fact)
            if fact.qa and len(fact.held_out) < plan.held_out_per_fact:
                account.skipped["held-out question: no second phrasing was answered again"] += (
                    plan.held_out_per_fact - len(fact.held_out)
                )
    account.notes.add(f"{generator.name} has no roles: its questions are in one voice")
    account.notes.add(f"{generator.name} names no themes: they stay empty")


def ask_prag(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    plan: AugmentPlan,
    generator: TextGenerator,
    account: Account,
) -> None:
    """Fill in PRAG's questions of the passages of one document, and rewrites if it can."""
    for piece, own in zip(pieces, written, strict=True):
        drafts = [
            _Draft(sentence, sentence, answer_spans(sentence, SPANS))
            for sentence in sentences(piece.passage.text)
        ]
        _ask_all(piece, drafts, 1, plan, generator, account)
        own.qa = [pair for draft in drafts for pair in draft.fact(plan).qa][: plan.prag_pairs]
        if len(own.qa) < plan.prag_pairs:
            account.lack(piece, "qa", f"{len(own.qa)} of {plan.prag_pairs} pairs")
    if generator.skill == "sentences":
        restate(pieces, written, plan, generator, account)
        return
    account.notes.add(
        f"{generator.name} can't restate a text: rewrites stay empty, so recipe 'prag' can't be"
        " used with these rows; 'questions' can"
    )


def _drafts(piece: Piece, seen: set[str], account: Account) -> list[_Draft]:
    """The sentences that can stand alone, or can once the title is before them."""
    found = []
    for sentence in sentences(piece.passage.text):
        if len(words(sentence)) < MIN_WORDS:
            account.skipped["sentence too short for a fact"] += 1
            continue
        if same_words(sentence) in seen:
            account.skipped["fact came before"] += 1
            continue
        seen.add(same_words(sentence))
        if stands_alone(sentence):
            text = sentence
        elif piece.title:
            text = f"{piece.title}: {sentence}"
        else:
            account.skipped["SKIP: fact begins with a pronoun or leans on another"] += 1
            continue
        found.append(_Draft(text, sentence, answer_spans(sentence, SPANS)))
    return found


def _ask_all(
    piece: Piece,
    drafts: Sequence[_Draft],
    wanted: int,
    plan: AugmentPlan,
    generator: TextGenerator,
    account: Account,
) -> None:
    """Ask for every answer, greedily and then drawn, until each draft has ``wanted`` questions."""
    for attempt in range(1 + plan.retries):
        orders = [(d, answer) for d in drafts if d.count < wanted for answer in d.answers]
        if not orders:
            return
        sampling = Sampling(
            QUESTION_TOKENS, temperature=DRAWN if attempt else 0.0, seed=plan.seed + attempt
        )
        prompts = [_prompt(piece.title, draft.source, ask=answer) for draft, answer in orders]
        asked = generator.generate(prompts, sampling)
        good = [
            (draft, answer, question)
            for (draft, answer), text in zip(orders, map(clean, asked), strict=True)
            if (question := question_in(text, answer))
        ]
        told = generator.generate(
            [_prompt(piece.title, piece.passage.text, question=q) for _, _, q in good],
            Sampling(QUESTION_TOKENS),
        )
        failed: Counter[str] = Counter()
        for (draft, answer, question), answered in zip(good, told, strict=True):
            if same_words(question) in draft.asked or draft.count >= wanted:
                continue
            draft.asked.add(same_words(question))
            if overlap(answered, answer) >= FOUND_AGAIN:
                draft.questions.setdefault(answer, []).append(question)
            else:
                failed["SKIP: the model did not answer its own question again"] += 1
        failed["SKIP: what was written is no question, or holds its answer"] += len(orders) - len(
            good
        )
        account.skipped += +failed


def overlap(said: str, right: str) -> float:
    """F1, 0..1, between the words of two texts."""
    a, b = Counter(words(said)), Counter(words(right))
    common = sum((a & b).values())
    return 2 * common / (a.total() + b.total()) if common else 0.0


def question_in(text: str, answer: str) -> str:
    """The question in ``text``; empty if it is none, gives the answer away, or goes in circles."""
    question = " ".join(text.split("?")[0].split()) + "?"
    said, right = words(question), words(answer)
    gives_away = set(right) <= set(said)
    pairs = list(pairwise(said))
    circles = len(set(pairs)) < len(pairs) or any(a == b for a, b in pairs)
    return "" if len(said) < MIN_WORDS or gives_away or circles else question


def _prompt(title: str, text: str, **fields: str) -> str:
    return json.dumps({**fields, "title": title, "text": text})
