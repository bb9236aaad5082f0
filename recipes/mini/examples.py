"""Training examples of the reading stage: a prompt, a target, and a weight per label.

Owns the mixture of tasks. Windows and distractors grow with training progress, so that early
steps are short and many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adapterdb.ingest.augment.sketch import sketch
from adapterdb.prompts import PromptEncoder
from adapterdb.training.sentences import sentences
from recipes.mini.corpus import Corpus, Question, window
from recipes.mini.prompts import Mask, Piece

UNKNOWN = "unknown"  # the answer when the passage shown does not hold it
TITLE_RATE = 0.85  # share of passages shown with their title
DOCUMENT_LABELS = 48  # of a document's tokens, drawn at random: output logits are the main cost
# Of examples, by task; reading takes the rest.
SHARES = {"ask": 0.06, "document": 0.05, "unknown": 0.04, "restate": 0.05}


@dataclass(frozen=True)
class Example:
    """One sequence; `labels` are the positions whose token is predicted from the one before."""

    ids: list[int]
    labels: list[int]
    weight: float  # of each label in the batch's mean


class Sampler:
    """Draws examples of all tasks from a corpus.

    Args:
        corpus: where from.
        prompts: formats.
        rng: source of chance.
        mask: hides some of the reading prompts' tokens.
        unasked: share of the questions to be read that are on plain text, not people's.
    """

    def __init__(
        self,
        corpus: Corpus,
        prompts: PromptEncoder,
        rng: random.Random,
        mask: Mask | None = None,
        unasked: float = 0.0,
    ) -> None:
        self.corpus, self.prompts, self.rng, self.mask = corpus, prompts, rng, mask
        self.unasked = unasked

    def draw(self, progress: float) -> Example:
        """One example of a random task; `progress` of training is 0..1."""
        tasks: dict[str, Callable[[float], Example]] = {
            "ask": self.ask,
            "document": self.document,
            "unknown": self.unknown,
            "restate": self.restate,
        }
        point = self.rng.random()
        for name, share in SHARES.items():
            if point < share:
                return tasks[name](progress)
            point -= share
        return self.read(progress)

    def read(self, progress: float) -> Example:
        """Answer from the passage in the prompt, sometimes among distractors."""
        question = self.question()
        pieces = [self.around(question, progress)]
        if self.rng.random() < 0.33 * min(1.0, 2 * progress):
            for _ in range(self.rng.choice((1, 1, 2))):
                same = self.rng.random() < 0.5
                pieces.append(self.piece(self.corpus.other(question.passage, same, self.rng), 400))
            self.rng.shuffle(pieces)
        return self._read(question.question, pieces, question.answer, 1.0)

    def ask(self, progress: float) -> Example:
        """Write a question whose answer is given."""
        question = self.rng.choice(self.corpus.questions)
        target = self.prompts.answer(question.question)
        piece = self.around(question, progress)
        prompt = self.prompts.ask(question.answer, piece.title, piece.text, len(target))
        return _answered(prompt, target, 0.4)

    def unknown(self, progress: float) -> Example:
        """Say so when the passage is of another article."""
        question = self.rng.choice(self.corpus.questions)
        piece = self.piece(self.corpus.other(question.passage, False, self.rng), 500)
        return self._read(question.question, [piece], UNKNOWN, 0.5)

    def restate(self, progress: float) -> Example:
        """Say a sentence again, given its bare words."""
        pieces = self.corpus.texts or [self.corpus.pieces[p] for p in self.corpus.passages]
        while True:
            sentence = self.rng.choice(sentences(self.rng.choice(pieces).text))
            words = sketch(sentence, self.rng)
            if 4 <= len(words) <= 40:
                target = self.prompts.answer(sentence)
                return _answered(self.prompts.restate(" ".join(words), len(target)), target, 0.15)

    def recall(self) -> Example:
        """Answer without any text: the base model's guess, and the form of such answers."""
        question = self.rng.choice(self.corpus.questions)
        target = self.prompts.answer(question.answer)
        return _answered(self.prompts.blind(question.question), target, 0.3)

    def document(self, progress: float) -> Example:
        """Plain language modelling of a passage or of a piece of Wikipedia."""
        if self.corpus.texts and self.rng.random() < 0.5:
            piece = self._titled(self.rng.choice(self.corpus.texts))
        else:
            piece = self.piece(self.rng.choice(self.corpus.passages), 800)
        ids = self.prompts.plain(piece.title, piece.text)
        places = range(1, len(ids))
        labels = sorted(self.rng.sample(places, min(DOCUMENT_LABELS, len(places))))
        return Example(ids, labels, 0.1)

    def question(self) -> Question:
        """A person's, or with a chance of `unasked` one on plain text."""
        if not self.corpus.texts or self.rng.random() >= self.unasked:
            return self.rng.choice(self.corpus.questions)
        while True:
            text = self.corpus.text(self.rng)
            found = self.corpus.questions_of.get(text) or self.corpus.clozes(text, self.rng)
            if found:
                return self.rng.choice(found)

    def around(self, question: Question, progress: float) -> Piece:
        """A window of the question's passage that holds the answer."""
        piece = self.corpus.pieces[question.passage]
        size = self.rng.randint(180, 450 + int(250 * progress))
        if self.rng.random() < 0.3 * progress:
            size = 1200
        cut = window(piece.text, question.start, len(question.answer), size, self.rng)
        return self._titled(Piece(piece.title, cut))

    def piece(self, passage: int, size: int) -> Piece:
        """A window anywhere in a passage, of up to `size` characters."""
        piece = self.corpus.pieces[passage]
        place = self.rng.randint(0, len(piece.text))
        cut = window(piece.text, place, 0, self.rng.randint(size // 2, size), self.rng)
        return self._titled(Piece(piece.title, cut))

    def _titled(self, piece: Piece) -> Piece:
        return piece if self.rng.random() < TITLE_RATE else Piece("", piece.text)

    def _read(self, question: str, pieces: list[Piece], answer: str, weight: float) -> Example:
        target = self.prompts.answer(answer)
        prompt, _ = self.prompts.context(question, pieces, len(target))
        if self.mask is not None:
            prompt = self.mask(prompt, target)
        return _answered(prompt, target, weight)


def batches(sampler: Sampler, size: int, progress: Callable[[], float]) -> Iterator[list[Example]]:
    """Endless batches of `size` examples of like length, from pools of 12 batches."""
    while True:
        pool = [sampler.draw(progress()) for _ in range(12 * size)]
        pool.sort(key=lambda example: len(example.ids))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        sampler.rng.shuffle(groups)
        yield from groups


def _answered(prompt: list[int], target: list[int], weight: float) -> Example:
    ids = prompt + target
    return Example(ids, list(range(len(prompt), len(ids))), weight)
