"""What one meta-training step is made of: passages, blind questions, prompts, all as id tensors.

A batch is passages in pairs of the same article where possible; passage i's delta may be mixed
with another passage's of the batch, so distractors cost nothing extra.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapterdb.prompts import PromptEncoder
from recipes.mini.corpus import Corpus, Question, window
from recipes.mini.examples import TITLE_RATE
from recipes.mini.prompts import Mask, Piece

MIXTURE_SIZES = (1, 1, 1, 2, 3)  # K, drawn uniformly from these


class Padded(NamedTuple):
    """Sequences padded on the right with zeros, and where they have labels.

    ids: `[N, T]` int64. kept: `[N, L]` int64, the positions of each sequence whose hidden state
    predicts a label, padded with zeros. rows, slots: `[M]` int64, where in `kept` the position is
    that predicts `targets [M]`. row_weights: `[M]` float32, one over the number of labels in that
    row.
    """

    ids: Tensor
    kept: Tensor
    rows: Tensor
    slots: Tensor
    targets: Tensor
    row_weights: Tensor

    @property
    def places(self) -> Tensor:
        """`[M]`, the position in its sequence that predicts each label."""
        return self.kept[self.rows, self.slots]


class Task(NamedTuple):
    """A passage as shown to the inner step, and questions it answers."""

    passage: int
    piece: Piece
    questions: list[Question]


def draw_tasks(
    corpus: Corpus,
    size: int,
    questions: int,
    chars: int,
    rng: random.Random,
    unasked: float = 0.0,
) -> list[Task]:
    """Distinct passages, every second one from its predecessor's article, with questions each.

    Args:
        corpus: where from.
        size: G, how many passages.
        questions: Q, questions for each; repeated where a passage has fewer.
        chars: longest piece; longer passages are cut to a window around one answer.
        rng: source of chance.
        unasked: share of the pairs that are of plain text, with questions by rule and by a model.
    """
    tasks: list[Task] = []
    taken: set[int] = set()
    while len(tasks) < size:
        if len(tasks) % 2:
            passage = corpus.other(tasks[-1].passage, True, rng)
        elif corpus.texts and rng.random() < unasked:
            passage = corpus.text(rng)
        else:
            passage = rng.choice(corpus.passages)
        if passage in taken and len(taken) < len(corpus.passages):
            passage = rng.choice(corpus.passages)
            if passage in taken:
                continue
        task = _task(corpus, passage, questions, chars, rng)
        if task is not None:
            taken.add(passage)
            tasks.append(task)
    return tasks


def mixtures(size: int, rng: random.Random) -> Tensor:
    """`[G, G]` float32: row i weighs the deltas answering for passage i; rows sum to 1.

    The own passage gets 1 for K = 1, else 0.4 to 0.9; its pair is the likeliest distractor.
    """
    weights = torch.zeros(size, size)
    for i in range(size):
        count = min(rng.choice(MIXTURE_SIZES), size)
        gold = 1.0 if count == 1 else rng.uniform(0.4, 0.9)
        weights[i, i] = gold
        others = [j for j in range(size) if j != i]
        rng.shuffle(others)
        if (i ^ 1) < size and rng.random() < 0.7:
            others.insert(0, i ^ 1)
        chosen = list(dict.fromkeys(others))[: count - 1]
        shares = [rng.uniform(0.3, 1.0) for _ in chosen]
        for j, share in zip(chosen, shares, strict=True):
            weights[i, j] = (1 - gold) * share / sum(shares)
    return weights


def documents(prompts: PromptEncoder, pieces: Sequence[Piece]) -> Padded:
    """The inner loss's input: the text's tokens are labels, those of its prompt are not.

    Where a long text leaves no room for a prompt, all of its tokens but the first are.
    """
    made = [prompts.document(piece.title, piece.text) for piece in pieces]
    return pad([prompt + text for prompt, text in made], [len(prompt) or 1 for prompt, _ in made])


def plain(prompts: PromptEncoder, pieces: Sequence[Piece]) -> Padded:
    """Running text: every token after the first is a label."""
    ids = [prompts.plain(piece.title, piece.text) for piece in pieces]
    return pad(ids, [1] * len(ids))


def blind(
    prompts: PromptEncoder, questions: Sequence[Question], mask: Mask | None = None
) -> Padded:
    """Questions without text; the answers are the labels."""
    pairs = [(prompts.blind(q.question), prompts.answer(q.answer)) for q in questions]
    return answered(pairs, mask)


def context(
    prompts: PromptEncoder,
    questions: Sequence[Question],
    pieces: Sequence[Piece],
    mask: Mask | None = None,
) -> Padded:
    """Questions with one passage each; the answers are the labels."""
    pairs = []
    for question, piece in zip(questions, pieces, strict=True):
        target = prompts.answer(question.answer)
        pairs.append((prompts.context(question.question, [piece], len(target))[0], target))
    return answered(pairs, mask)


def answered(pairs: Sequence[tuple[list[int], list[int]]], mask: Mask | None = None) -> Padded:
    """Prompt and target ids to one padded batch; `mask` hides some of the prompts' tokens."""
    if mask is not None:
        pairs = [(mask(prompt, target), target) for prompt, target in pairs]
    return pad([p + t for p, t in pairs], [len(p) for p, _ in pairs])


def pad(sequences: Sequence[list[int]], firsts: Sequence[int]) -> Padded:
    """Pad sequences; from `firsts[n]` on, the tokens of sequence n are labels."""
    counts = [len(sequence) - first for sequence, first in zip(sequences, firsts, strict=True)]
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    kept = torch.zeros(len(sequences), max(counts), dtype=torch.long)
    rows, slots, targets, weights = [], [], [], []
    for row, (sequence, first, count) in enumerate(zip(sequences, firsts, counts, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        kept[row, :count] = torch.arange(first - 1, len(sequence) - 1)
        rows += [row] * count
        slots += range(count)
        targets += sequence[first:]
        weights += [1.0 / count] * count
    index = (torch.tensor(values, dtype=torch.long) for values in (rows, slots, targets))
    return Padded(ids, kept, *index, torch.tensor(weights))


def _task(corpus: Corpus, passage: int, count: int, chars: int, rng: random.Random) -> Task | None:
    """The passage cut, and questions on what is left of it; None for a text with none."""
    piece = corpus.pieces[passage]
    asked = list(corpus.questions_of.get(passage, []))
    if passage in corpus.unasked:
        asked += corpus.clozes(passage, rng) + corpus.clozes(passage, rng)
    if not asked:
        return None
    first = rng.choice(asked)
    text = window(piece.text, first.start, len(first.answer), chars, rng)
    answerable = [question for question in asked if question.answer in text]
    rng.shuffle(answerable)
    questions = (answerable * count)[:count]
    title = piece.title if rng.random() < TITLE_RATE else ""
    return Task(passage, Piece(title, text), questions)
