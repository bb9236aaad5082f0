"""MeteoRA's loss (arXiv 2405.13053): say the text, and send every token to its task's delta.

    loss = cross entropy of the next token + gate_weight * cross entropy of the gates

A gate's label at a position is the delta of the token that is said next, averaged over positions
and sites. All N deltas stand in one bank that serves every row of a batch, through the same kernel
and the same normalisation as an answer. Its cost grows with N: a token makes N * R products a site,
and keeps them for the backward, which is little beside the base model up to some hundred deltas;
beyond that, train on fewer sequences at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel, Factors
from adapterdb.errors import InvalidInput
from adapterdb.kernels import Gated, TokenGate
from adapterdb.layout import DeltaLayout
from adapterdb.prompts import PromptEncoder
from adapterdb.records import check_int, check_number
from adapterdb.training.finetune import Mask
from adapterdb.training.gate.bank import site_slices
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import cross_entropies, pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.schedule import Schedule
from adapterdb.training.tasks import Task

NONE = -100  # no label


@dataclass(frozen=True)
class RoutedSequence:
    """Token ids, from which position on they carry loss, and for each the delta it belongs to.

    ``experts`` are places in the bank, as many as ``ids``; -100 for a token of none of them.
    ``silent`` are stretches ``[first, last)`` after ``loss_from`` that carry no loss.
    """

    ids: tuple[int, ...]
    loss_from: int
    experts: tuple[int, ...]
    silent: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class GateSettings:
    """How a gate learns.

    Args:
        name: what users call it. about: a line for people.
        top_k: deltas a token goes through; 1 leaves the vectors to the gate's own loss alone.
        temperature: of the softmax over them, in training and ever after.
        gate_weight: of the gate's cross entropy.
        mask: which tokens of a question carry the language model's loss.
        train_deltas: the deltas learn too; False: the vectors alone (the paper).
        init_scale: the vectors begin normal with this deviation (the paper: 1).
        lr: AdamW's; delta_lr: of the deltas, 0 for the same. betas, weight_decay: likewise.
        schedule: of the learning rate.
        clip: largest norm of the gradient; 0 for none.
        batch: sequences in a step. at_once: in one forward.
        turns: questions in one text, 1 to this many at random, each followed by its answer: with
            more than one the gates see tasks change, as in composite questions.
        per_task: at most this many questions of a task, evenly spaced; 0 for all.
        epochs: over all of them; max_steps, minutes: instead of it where not 0.
        evaluate_every: steps between evaluations on the set-aside questions; 0 means each epoch.
        evaluate_on: how many of them are looked at, evenly spaced.
        max_tokens: sequences are cut to this many tokens; 0 means to what the base model takes.
        seed: of the order, and of the vectors.
    """

    name: str
    about: str = ""
    top_k: int = 2
    temperature: float = 1.0
    gate_weight: float = 50.0
    mask: Mask = "all"
    train_deltas: bool = False
    init_scale: float = 1.0
    lr: float = 5e-4
    delta_lr: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 0.01
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine", warm_up=0.005))
    clip: float = 0.3
    batch: int = 32
    at_once: int = 8
    turns: int = 1
    per_task: int = 0
    epochs: int = 1
    max_steps: int = 0
    minutes: float = 0.0
    evaluate_every: int = 0
    evaluate_on: int = 200
    max_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"gate {self.name!r}: "
        check_number(where + "temperature", self.temperature, 1e-6, 1e6)
        for key in ("gate_weight", "init_scale", "lr", "delta_lr", "weight_decay", "clip",
                    "minutes"):  # fmt: skip
            check_number(where + key, getattr(self, key), 0.0, 1e6)
        for key in ("top_k", "batch", "at_once", "turns", "epochs", "evaluate_on"):
            check_int(where + key, getattr(self, key), 1, 10**6)
        for key in ("max_steps", "evaluate_every", "max_tokens", "per_task", "seed"):
            check_int(where + key, getattr(self, key), 0, 2**40)
        if len(self.betas) != 2 or not all(
            isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas
        ):
            raise InvalidInput(f"{where}betas are {self.betas}; expected two numbers in [0, 1)")


class Routed(NamedTuple):
    """What a forward measured; sums, to be divided by ``said`` and by ``sent`` times the sites.

    Attributes:
        lm: float32 scalar, nats of all labelled tokens.
        gate: float32 scalar, nats of all gates; with autograd history.
        right: int64 ``(sites,)``, positions whose largest logit is their label's.
        said, sent: how many tokens and positions were labelled.
    """

    lm: Tensor
    gate: Tensor
    right: Tensor
    said: int
    sent: int


def routed_sequences(
    tasks: Iterable[Task],
    encoder: PromptEncoder,
    experts: Mapping[str, int],
    *,
    mask: Mask = "all",
    max_tokens: int = 0,
) -> list[RoutedSequence]:
    """Blind question to answer, all of whose tokens belong to the task's delta.

    Args:
        experts: name of a task to its delta's place.
        max_tokens: what is longer is cut; 0 means to what the base model takes.
    """
    found = []
    for task in tasks:
        prompt = encoder.blind(task.question)
        ids = (*prompt, *encoder.answer(task.answer))[: max_tokens or encoder.max_length]
        place = experts[task.task]
        loss_from = len(prompt) if mask == "answer" else 0
        found.append(RoutedSequence(ids, loss_from, (place,) * len(ids)))
    return [s for s in found if len(s.ids) > max(s.loss_from, 1)]


def joined(
    sequences: Sequence[RoutedSequence], turns: int, longest: int, seed: int
) -> list[RoutedSequence]:
    """Texts of 1 to ``turns`` sequences one after the other, each sequence once, in random order.

    Args:
        longest: tokens of a text, where it isn't a single sequence anyway.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sequences), generator=generator).tolist()
    found: list[list[RoutedSequence]] = []
    room = 0
    for place in order:
        one = sequences[place]
        if not room or sum(len(s.ids) for s in (*found[-1], one)) > longest:
            found.append([])
            room = int(torch.randint(1, turns + 1, (1,), generator=generator))
        found[-1].append(one)
        room -= 1
    return [_chained(group) for group in found]


def _chained(group: Sequence[RoutedSequence]) -> RoutedSequence:
    """One sequence of all; the later ones' prompts are silent."""
    silent, at = [], 0
    for sequence in group:
        if at and sequence.loss_from:
            silent.append((at, at + sequence.loss_from))
        at += len(sequence.ids)
    return RoutedSequence(
        tuple(i for s in group for i in s.ids), group[0].loss_from,
        tuple(expert for s in group for expert in s.experts), tuple(silent),
    )  # fmt: skip


def factors_of(layout: DeltaLayout, rows: Tensor) -> Factors:
    """``a (1, N*R, H1)`` and ``b (1, N*R, H2)`` of factor rows ``(N, P)`` for every site."""
    return [(a.flatten(0, 1)[None], b.flatten(0, 1)[None]) for a, b in layout.views(rows)]


def learned_gates(
    layout: DeltaLayout, vectors: Tensor, top_k: int, temperature: float
) -> list[TokenGate]:
    """The gate of each site over the N deltas of ``vectors (N, G)``."""
    n, device = len(vectors), vectors.device
    live = torch.ones(1, n, dtype=torch.bool, device=device)
    k = torch.tensor([top_k], device=device)
    heat = torch.tensor([temperature], device=device)
    never = torch.zeros(1, dtype=torch.bool, device=device)
    return [
        TokenGate(live, never, k, heat, None, vectors[None, :, part])
        for part in site_slices(layout)
    ]


def route(
    adapted: AdaptedModel,
    factors: Factors,
    gates: Sequence[TokenGate],
    sequences: Sequence[RoutedSequence],
    *,
    lm_share: float = 0.0,
    note: Callable[[int, Tensor], None] | None = None,
) -> tuple[Routed, list[tuple[Tensor, Tensor]]]:
    """Run ``sequences`` through the gated deltas.

    Args:
        lm_share: of every labelled token's loss in what is differentiated; 0: nothing is.
        note: called with a site and the logits ``(positions, N)`` of its labelled positions.

    Returns:
        The measures; and, if something is differentiated, the last hidden states with their
        gradient, as ``torch.autograd.backward`` takes them.
    """
    device = next(adapted.model.parameters()).device
    ids, mask, labels = pad([TokenSequence(s.ids, s.loss_from) for s in sequences], device)
    for row, sequence in enumerate(sequences):
        for first, last in sequence.silent:
            labels[row, first - 1 : last - 1] = NONE
    wanted = _experts(sequences, ids.shape[1]).to(device).flatten()
    kept = wanted != NONE
    right = torch.zeros(len(gates), dtype=torch.int64, device=device)
    nats: list[Tensor] = []

    def watch(site: int, gated: Gated) -> None:
        logits = gated.logits[0][kept]
        if note is not None:
            note(site, logits)
        nats.append(F.cross_entropy(logits, wanted[kept], reduction="sum"))
        right[site] = (logits.detach().argmax(-1) == wanted[kept]).sum()

    with adapted.using(factors, adapted.layout.scale, gates=gates, watch=watch) as model:
        split = SplitModel(model)
        said = labels != NONE
        hidden = split.hidden_states(ids, mask)[said]
    shares = torch.full((len(hidden),), lm_share, device=device) if lm_share else None
    each, upstream = cross_entropies(split, hidden.detach(), labels[said], shares)
    found = Routed(each.sum(), torch.stack(nats).sum(), right, len(hidden), int(kept.sum()))
    return found, [(hidden, upstream)] if lm_share else []


def positions(sequences: Sequence[RoutedSequence]) -> tuple[int, int]:
    """How many tokens carry the language model's loss, and how many positions the gates'."""
    said = sum(max(0, len(s.ids) - max(s.loss_from, 1)) for s in sequences)
    said -= sum(last - first for s in sequences for first, last in s.silent)
    return said, sum(expert != NONE for s in sequences for expert in s.experts[1:])


def _experts(sequences: Sequence[RoutedSequence], width: int) -> Tensor:
    """int64 ``(B, width)``: at each position whose delta the next token is; -100 for none."""
    found = torch.full((len(sequences), width), NONE)
    for row, sequence in enumerate(sequences):
        found[row, : len(sequence.experts) - 1] = torch.tensor(sequence.experts[1:])
    return found
