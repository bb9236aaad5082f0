"""One shared delta on many sequences: task tuning, continued pre-training, monolithic SFT.

    ft                blind question to answer, loss on the answer (Meta-PG's Task SFT; PRAG's warm
                      start)
    dapt              passages, loss on all tokens (Retrievable Gradient's baseline)
    knowledge-update  Q&A of all passages in one delta (KnowledgeUpdate's monolithic SFT)

Knows no database; the row is the caller's to keep. All weights instead of a delta: ``base_tuning``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from adapterdb.adapted_model import AdaptedModel
from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training import bank
from adapterdb.training.objective import TokenSequence
from adapterdb.training.schedule import Budget, Progress, Schedule, check_finite, spread
from adapterdb.training.tasks import Task

Mask = Literal["all", "answer"]
SORTED = 16  # batches whose sequences are sorted by length together


@dataclass(frozen=True)
class FinetuneSettings:
    """How one delta, or all weights, learn many sequences.

    Args:
        name: what users call it. about: a line for people.
        lora: which linears, rank and alpha. There is no dropout: a row has none.
        learn: ``blind`` questions, ``visible`` ones (passages in the prompt), or ``passages``.
        mask: which tokens of a question carry loss.
        lr: AdamW's. betas, weight_decay: likewise.
        schedule: of the learning rate.
        clip: largest norm of the gradient; 0 for none.
        batch: sequences in a step. at_once: in one forward.
        epochs: over all sequences; max_steps, minutes: instead of it where not 0.
        evaluate_every: steps between evaluations on the set-aside sequences; 0 means each epoch.
        evaluate_on: how many of them are looked at, evenly spaced.
        patience: evaluations without a better one after which the run ends; 0 for never.
        max_tokens: sequences are cut to this many tokens; 0 means to what the base model takes.
        seed: of the order, and of the fresh row.
    """

    name: str
    about: str = ""
    lora: LoraSpec = field(default_factory=lambda: LoraSpec(16, 32.0, layers="upper-half"))
    learn: Literal["blind", "visible", "passages"] = "blind"
    mask: Mask = "answer"
    lr: float = 4e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 0.01
    schedule: Schedule = field(default_factory=Schedule)
    clip: float = 0.5
    batch: int = 16
    at_once: int = 16
    epochs: int = 1
    max_steps: int = 0
    minutes: float = 0.0
    evaluate_every: int = 0
    evaluate_on: int = 1000
    patience: int = 0
    max_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"finetune {self.name!r}: "
        for key in ("lr", "weight_decay", "clip", "minutes"):
            check_number(where + key, getattr(self, key), 0.0, 1e6)
        for key in ("batch", "at_once", "epochs", "evaluate_on"):
            check_int(where + key, getattr(self, key), 1, 10**6)
        for key in ("max_steps", "evaluate_every", "patience", "max_tokens", "seed"):
            check_int(where + key, getattr(self, key), 0, 2**40)
        if len(self.betas) != 2 or not all(
            isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas
        ):
            raise InvalidInput(f"{where}betas are {self.betas}; expected two numbers in [0, 1)")


@dataclass(frozen=True)
class Finetuned:
    """What a run has made.

    Args:
        row: the best delta ``(P,)``, float32 on the CPU.
        curve: of every evaluation: step, minutes, loss since the last one, held-out loss.
        best_step: the evaluation that ``row`` is of.
    """

    row: Tensor
    curve: tuple[dict[str, float], ...]
    best_step: int


def finetune(
    adapted: AdaptedModel,
    sequences: Sequence[TokenSequence],
    settings: FinetuneSettings,
    theta: Tensor,
    *,
    held_out: Sequence[TokenSequence] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Finetuned:
    """Fit one row to ``sequences`` and keep what is best on ``held_out``.

    Args:
        theta: ``(P,)`` where it begins (a base_weight); left unchanged.
        held_out: sequences that are not trained on; empty keeps the last step.

    Raises:
        InvalidInput: for no sequence, one that is in both sets, code ``diverged`` for a loss that
            is no longer finite.
    """
    learned, aside = prepared(sequences, held_out, settings)
    device = next(adapted.model.parameters()).device
    row = nn.Parameter(theta.to(device, copy=True))

    def backward(batch: Sequence[TokenSequence]) -> float:
        total, row.grad = 0.0, torch.zeros_like(row)
        for part, share in shares(batch, settings.at_once):
            loss, gradient = bank.gradients(adapted, row.detach()[None], [part])
            row.grad += share * gradient[0].to(row.dtype)
            total += share * float(loss)
        return total

    def evaluate() -> float:
        losses = shares(aside, 2 * settings.at_once)
        return sum(share * float(bank.losses(adapted, row[None], [part])) for part, share in losses)

    state = [row.detach().clone()]

    def keep() -> None:
        state[0] = row.detach().clone()

    curve, best_step = run([row], learned, settings, backward, evaluate if aside else None, keep,
                           on_progress)  # fmt: skip
    return Finetuned(state[0].cpu(), curve, best_step)


def run(
    parameters: Sequence[nn.Parameter],
    sequences: Sequence[TokenSequence],
    settings: FinetuneSettings,
    backward: Callable[[Sequence[TokenSequence]], float],
    evaluate: Callable[[], float] | None,
    keep: Callable[[], None],
    on_progress: Callable[[Progress], None] | None,
) -> tuple[tuple[dict[str, float], ...], int]:
    """AdamW over minibatches under the schedule; the curve, and the step that was kept.

    Args:
        backward: leaves a batch's gradient in ``parameters`` and gives its loss.
        evaluate: the loss on what is set aside, or None.
        keep: called when the parameters are the best so far.
    """
    s = settings
    optimizer = torch.optim.AdamW(
        parameters, lr=s.lr, betas=(s.betas[0], s.betas[1]), weight_decay=s.weight_decay
    )
    per_epoch = -(-len(sequences) // s.batch)
    budget = Budget(s.max_steps or (0 if s.minutes else s.epochs * per_epoch), s.minutes)
    curve: list[dict[str, float]] = []
    window: list[float] = []
    best, best_step, waited, step, share = math.inf, 0, 0, 0, 0.0
    every = s.evaluate_every or per_epoch
    while share < 1 and not (s.patience and waited >= s.patience):
        if step % per_epoch == 0:
            lengths = [len(sequence.ids) for sequence in sequences]
            batches = minibatches(lengths, s.batch, s.seed * 7_919 + step // per_epoch)
        lr = s.schedule.lr(s.lr, share)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = backward([sequences[i] for i in batches[step % per_epoch]])
        check_finite(loss, step)
        if s.clip:
            nn.utils.clip_grad_norm_(parameters, s.clip)
        optimizer.step()
        window.append(loss)
        step += 1
        share = budget.progress(step)
        measures = None
        if share >= 1 or step % every == 0:
            entry = {"step": float(step), "minutes": round(budget.spent_s / 60, 3)}
            entry["loss"], window = sum(window) / len(window), []
            if evaluate is not None:
                with torch.no_grad():
                    entry["held_out"] = evaluate()
                check_finite(entry["held_out"], step)
                measures = {"loss": entry["held_out"]}
            curve.append(entry)
            waited += 1
            if entry.get("held_out", -step) < best:  # without it the last step is the best
                best, best_step, waited = entry.get("held_out", -step), step, 0
                keep()
        if on_progress is not None:
            on_progress(Progress(step, share, loss, lr, measures))
    return tuple(curve), best_step


def answer_sequences(
    tasks: Iterable[Task],
    encoder: PromptEncoder,
    *,
    visible: bool = False,
    mask: Mask = "answer",
) -> list[TokenSequence]:
    """Question to answer, blind, or ``visible``: with the task's passages in the prompt."""
    found = []
    for task in tasks:
        answer = encoder.answer(task.answer)
        room = max(encoder.prompts.max_new_tokens, len(answer))
        prompt = (
            encoder.context(task.question, task.passages, room)[0]
            if visible
            else encoder.blind(task.question)
        )
        found.append(TokenSequence((*prompt, *answer), len(prompt) if mask == "answer" else 0))
    return found


def pair_sequences(
    pairs: Iterable[tuple[str, str]], encoder: PromptEncoder, *, mask: Mask = "answer"
) -> list[TokenSequence]:
    """Blind question to answer, of ``(question, answer)`` pairs."""
    found = []
    for question, answer in pairs:
        prompt = encoder.blind(question)
        whole = (*prompt, *encoder.answer(answer))
        found.append(TokenSequence(whole, len(prompt) if mask == "answer" else 0))
    return found


def passage_sequences(
    passages: Iterable[tuple[str, str]], encoder: PromptEncoder
) -> list[TokenSequence]:
    """Each passage ``(title, text)`` once, loss on all its tokens."""
    return [TokenSequence(tuple(encoder.plain(*p))) for p in dict.fromkeys(passages)]


def sequences_to_learn(
    tasks: Sequence[Task], settings: FinetuneSettings, encoder: PromptEncoder
) -> list[TokenSequence]:
    """What ``settings.learn`` makes of ``tasks``."""
    if settings.learn == "passages":
        return passage_sequences((p for task in tasks for p in task.passages), encoder)
    visible = settings.learn == "visible"
    return answer_sequences(tasks, encoder, visible=visible, mask=settings.mask)


def prepared(
    sequences: Sequence[TokenSequence],
    held_out: Sequence[TokenSequence],
    settings: FinetuneSettings,
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Both sets cut to ``max_tokens``, without what has no label left.

    Raises:
        InvalidInput: if nothing is left to learn, or a sequence is in both sets.
    """
    both = set(sequences) & set(held_out)
    if both:
        raise InvalidInput(
            f"{len(both)} of {len(held_out)} set-aside sequences are also trained on",
            hint="set sequences aside before training",
        )
    learned, aside = (_cut(x, settings.max_tokens) for x in (sequences, held_out))
    aside = spread(aside, settings.evaluate_on)
    if not learned:
        raise InvalidInput("there is no sequence to learn from")
    return learned, aside


def shares(
    sequences: Sequence[TokenSequence], at_once: int
) -> list[tuple[Sequence[TokenSequence], float]]:
    """Parts of at most ``at_once`` sequences, and each one's share of all labelled tokens."""
    parts = [sequences[i : i + at_once] for i in range(0, len(sequences), at_once)]
    counts = [sum(labels(sequence) for sequence in part) for part in parts]
    return [(part, count / sum(counts)) for part, count in zip(parts, counts, strict=True)]


def labels(sequence: TokenSequence) -> int:
    """How many of a sequence's tokens carry loss."""
    return max(0, len(sequence.ids) - max(sequence.loss_from, 1))


def _cut(sequences: Sequence[TokenSequence], length: int) -> list[TokenSequence]:
    cut = [TokenSequence(s.ids[: length or None], s.loss_from, s.weights) for s in sequences]
    return [s for s in cut if labels(s)]


def minibatches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Places in batches of about equal lengths, in random order: shuffled, sorted by the piece."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    piece = size * SORTED
    for i in range(0, len(order), piece):
        order[i : i + piece] = sorted(order[i : i + piece], key=lambda j: lengths[j])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
