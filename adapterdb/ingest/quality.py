"""Quality at the door: does a delta say anything of its own passage?

    loss_before   of the passage's own sequences at the shared start, nats per token
    loss_after    the same under its own delta
    loss_shifted  the same under another passage's delta, measured on a sample (the shift test)

A delta that does not lower its passage's loss encodes nothing; one that lowers it no more than
another passage's delta does is not specific: it switches a mode on, and knows nothing (Text-to-LoRA
and DyPRAG are known to do so). Neither is thrown away: it is made again more strongly where the
recipe can, and flagged where that does not help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapterdb.adapted_model import AdaptedModel
from adapterdb.training import bank
from adapterdb.training.bank import Fitted
from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import Recipe

LEAST_GAIN = 0.005  # share of the loss a delta has to take away from its own passage
SAMPLE_EVERY = 8  # one passage in so many has the shift test
STRONGER = 3.0  # the second try's learning rate
ENCODES_NOTHING, NOT_SPECIFIC = "encodes_nothing", "not_specific"


@dataclass(frozen=True)
class Verdict:
    """What is thought of one delta; losses in nats per token."""

    loss_before: float
    loss_after: float
    loss_shifted: float | None

    @property
    def flag(self) -> str:
        """Why it is doubted, or an empty string."""
        if self.loss_after > (1 - LEAST_GAIN) * self.loss_before:
            return ENCODES_NOTHING
        if self.loss_shifted is not None and self.loss_shifted <= self.loss_after:
            return NOT_SPECIFIC
        return ""


def encodes_nothing(fitted: Fitted) -> Tensor:
    """Bool ``(N,)``: which deltas leave their own passage's loss as it was, or not finite."""
    return ~(fitted.loss_after <= (1 - LEAST_GAIN) * fitted.loss_before)


def stronger(recipe: Recipe) -> Recipe | None:
    """The recipe of a second try, or None where there is nothing to turn: a gradient is one."""
    if recipe.produces == "gradient":
        return None
    return replace(recipe, lr=recipe.lr * STRONGER, epochs=2 * recipe.epochs)


def better_of(first: Fitted, which: Tensor, second: Fitted) -> Fitted:
    """``first`` with the deltas ``which (N,)`` replaced by the second try's where that is better.

    Args:
        which: bool ``(N,)``, as many true as ``second`` has deltas.
    """
    rows, after = first.rows.clone(), first.loss_after.clone()
    for place, (row, loss) in zip(
        which.nonzero()[:, 0].tolist(), zip(second.rows, second.loss_after, strict=True),
        strict=True,
    ):  # fmt: skip
        if loss < after[place]:
            rows[place], after[place] = row, loss
    return replace(first, rows=rows, loss_after=after)


def shift_losses(
    adapted: AdaptedModel,
    used: Tensor,
    data: Sequence[Sequence[TokenSequence]],
    owners: Sequence[int],
) -> list[float | None]:
    """The shift test on one passage in ``SAMPLE_EVERY``.

    Args:
        used: ``(N, P)`` factor rows the deltas act with.
        data: N lists of sequences.
        owners: of each passage, something that tells documents apart: where there is another
            document in the batch, its delta is the shifted one.

    Returns:
        N losses, None where not measured.
    """
    found: list[float | None] = [None] * len(data)
    pairs = [
        (i, other)
        for i in range(0, len(data), SAMPLE_EVERY)
        if (other := _other(i, owners)) is not None
    ]
    if pairs:
        own, others = [i for i, _ in pairs], torch.tensor([other for _, other in pairs])
        shifted = bank.losses(adapted, used[others.to(used.device)], [data[i] for i in own])
        for i, loss in zip(own, shifted.tolist(), strict=True):
            found[i] = loss
    return found


def _other(i: int, owners: Sequence[int]) -> int | None:
    """Another passage of the batch, of another document where there is one."""
    rest = [j % len(owners) for j in range(i + 1, i + len(owners))]
    return next((j for j in rest if owners[j] != owners[i]), rest[0] if rest else None)
