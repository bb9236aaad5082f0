"""Passages to what the store takes: deltas fitted and judged, vectors, durable rows.

One delta for each passage (``Maker.make``), or one for each cluster of passages, named by all of
its members (``Maker.make_clusters``). Reads no files, commits nothing, talks to no person.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdb import prototype
from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import BaseModel
from adapterdb.config import Config
from adapterdb.embedder import Embedder
from adapterdb.errors import Rejected
from adapterdb.ingest.clusters import Clustering
from adapterdb.ingest.quality import (
    Verdict,
    better_of,
    encodes_nothing,
    shift_losses,
    stronger,
)
from adapterdb.records import DeltaKind, Passage
from adapterdb.store.encoding import read_dtype
from adapterdb.store.rows import NewPassage, RowRef, Vector
from adapterdb.store.store import Store
from adapterdb.training import bank
from adapterdb.training.bank import Fitted
from adapterdb.training.objective import TokenSequence, TrainingPassage, weighed_sequences
from adapterdb.training.recipes import Recipe
from adapterdb.training.start import Start
from adapterdb.training.weights.weighting import Weigher

CLUSTERS_AT_ONCE = 8  # whose deltas are fitted in one bank
MEMBERS_AT_ONCE = 16  # whose losses are measured at once


@dataclass(frozen=True)
class Workshop:
    """Everything that turns text into deltas: fixed for a run.

    Args:
        base: the base model; adapted: the same with hooks for the layout of ``start``.
        lock: held while the model runs, so that questions can be answered in between.
        weigher: of tokens; None where all count alike.
    """

    base: BaseModel
    adapted: AdaptedModel
    lock: AbstractContextManager[Any]
    start: Start
    recipe: Recipe
    embedder: Embedder
    config: Config
    weigher: Weigher | None = None


class Piece(NamedTuple):
    """A passage to be made something of.

    Attributes:
        owner: tells documents apart.
    """

    passage: Passage
    training: TrainingPassage
    owner: int


Made = NewPassage | Rejected


class Maker:
    """Makes deltas for one store with one workshop."""

    def __init__(self, store: Store, workshop: Workshop) -> None:
        self.store, self.shop = store, workshop

    def make(self, pieces: Sequence[Piece]) -> list[Made]:
        """A durable delta for each piece, or why there is none, in order."""
        fitted, shifted = self._fitted(pieces)
        vectors = self.vectors(pieces)
        rows = fitted.rows.to(read_dtype(self.store.info.dtype))
        finite = torch.isfinite(rows).all(-1) & torch.isfinite(fitted.loss_after)
        factors = self.shop.recipe.produces != "gradient"
        refs = iter(self.store.write_rows(rows[finite], factors=factors) if finite.any() else ())
        known = iter(self._prototypes(self._used(rows[finite].float())))
        found: list[Made] = []
        for i, piece in enumerate(pieces):
            if not finite[i]:
                found.append(_not_finite(piece.passage))
                continue
            losses = float(fitted.loss_before[i]), float(fitted.loss_after[i])
            verdict = Verdict(*losses, shifted[i])
            kind = self.shop.recipe.produces
            made = self._new(piece, vectors[i], next(refs), kind, verdict, next(known))
            found.append(made)
        return found

    def make_clusters(self, pieces: Sequence[Piece], clustering: Clustering) -> list[Made]:
        """One durable delta for each cluster, named by every member, in the order of ``pieces``.

        A cluster's delta is made from its representatives and kept as the factors it acts with.
        """
        used = torch.cat(
            [
                self._fit_cluster_rows(pieces, clustering.representatives[i : i + CLUSTERS_AT_ONCE])
                for i in range(0, len(clustering.representatives), CLUSTERS_AT_ONCE)
            ]
        )
        rows = used.to(read_dtype(self.store.info.dtype))
        finite = torch.isfinite(rows).all(-1)
        numbers = finite.nonzero()[:, 0].tolist()
        refs = self.store.write_rows(rows[finite], factors=True) if numbers else []
        known = self._prototypes(rows[finite].float())
        kept = dict(zip(numbers, zip(refs, known, strict=True), strict=True))
        vectors, losses = self.vectors(pieces), self._member_losses(pieces, clustering, used)
        own = {i for chosen in clustering.representatives for i in chosen}
        found: list[Made] = []
        for i, piece in enumerate(pieces):
            pair = kept.get(int(clustering.labels[i]))
            if pair is None:
                found.append(_not_finite(piece.passage))
                continue
            ref, core = pair
            made = self._new(piece, vectors[i], ref, "cluster", losses[i], core, own=i in own)
            found.append(made)
        return found

    def vectors(self, pieces: Sequence[Piece]) -> Sequence[Vector]:
        """The unit vectors by which the pieces are found."""
        told = (piece.training for piece in pieces)
        return list(
            self.shop.embedder.encode([f"{t.title}: {t.text}" if t.title else t.text for t in told])
        )

    def sequences(self, training: Sequence[TrainingPassage]) -> list[list[TokenSequence]]:
        """What each passage is fitted to, with weights where the recipe has them."""
        shop = self.shop
        return weighed_sequences(training, shop.recipe, shop.base.encoder, shop.weigher)

    def seconds_each(self, pieces: Sequence[Piece]) -> float:
        """Seconds per passage of fitting and embedding, measured after a warm-up."""
        if not pieces:
            return 0.0
        self._fitted(pieces[:1])
        began = time.perf_counter()
        self._fitted(pieces)
        self.vectors(pieces)
        return (time.perf_counter() - began) / len(pieces)

    def _fitted(self, pieces: Sequence[Piece]) -> tuple[Fitted, list[float | None]]:
        """Deltas, made again where they encode nothing, and the shift test of a sample."""
        shop, data = self.shop, self.sequences([piece.training for piece in pieces])
        with shop.lock, shop.base.fitting_precision():
            fitted = self._fit(data)
            owners = [piece.owner for piece in pieces]
            return fitted, shift_losses(shop.adapted, self._used(fitted.rows), data, owners)

    def _fit(self, data: Sequence[Sequence[TokenSequence]]) -> Fitted:
        """Deltas of N lists of sequences, made again where they encode nothing."""
        shop = self.shop
        fitted = bank.fit_sequences(shop.adapted, data, shop.recipe, shop.start)
        again, weak = stronger(shop.recipe), encodes_nothing(fitted)
        if again is None or not weak.any():
            return fitted
        some = [data[i] for i in weak.nonzero()[:, 0].tolist()]
        return better_of(fitted, weak, bank.fit_sequences(shop.adapted, some, again, shop.start))

    def _fit_cluster_rows(
        self, pieces: Sequence[Piece], clusters: Sequence[Sequence[int]]
    ) -> Tensor:
        """Factor rows ``(C, P)`` float32, each fitted to all of its representatives."""
        shop = self.shop
        data = [
            [s for found in self.sequences([pieces[i].training for i in chosen]) for s in found]
            for chosen in clusters
        ]
        with shop.lock, shop.base.fitting_precision():
            return self._used(self._fit(data).rows)

    def _member_losses(
        self, pieces: Sequence[Piece], clustering: Clustering, used: Tensor
    ) -> list[Verdict]:
        """The loss of every passage at the start, under its cluster's row, and under another's."""
        shop = self.shop
        labels = torch.as_tensor(clustering.labels)
        others = (labels + 1) % len(used)
        found: list[Verdict] = []
        for first in range(0, len(pieces), MEMBERS_AT_ONCE):
            part = slice(first, first + MEMBERS_AT_ONCE)
            data = self.sequences([piece.training for piece in pieces[part]])
            plain = shop.start.theta.expand(len(data), -1)
            with shop.lock, shop.base.fitting_precision():
                before, after, shifted = (
                    bank.losses(shop.adapted, rows.to(shop.base.device), data).tolist()
                    for rows in (plain, used[labels[part]], used[others[part]])
                )
            shifts = shifted if len(used) > 1 else [None] * len(data)
            found += [Verdict(*three) for three in zip(before, after, shifts, strict=True)]
        return found

    def _used(self, rows: Tensor) -> Tensor:
        """The factor rows with which made rows act."""
        shop = self.shop
        return shop.start.step(rows) if shop.recipe.produces == "gradient" else rows

    def _prototypes(self, used: Tensor) -> list[bytes]:
        """The prototypes of factor rows ``(n, P)``, as the catalog keeps them."""
        return [prototype.to_bytes(c) for c in prototype.cores(self.store.info.layout, used)]

    def _new(
        self,
        piece: Piece,
        vector: Vector,
        ref: RowRef,
        kind: DeltaKind,
        verdict: Verdict,
        core: bytes,
        *,
        own: bool = True,
    ) -> NewPassage:
        return NewPassage(
            piece.passage,
            vector,
            ref,
            kind=kind,
            recipe=self.shop.recipe.name,
            loss_before=verdict.loss_before,
            loss_after=verdict.loss_after,
            loss_shifted=verdict.loss_shifted,
            flag=verdict.flag,
            own=own,
            meta_init_fingerprint=self.shop.start.fingerprint,
            prototype=core,
        )


def _not_finite(passage: Passage) -> Rejected:
    return Rejected(
        f"the delta of characters {passage.start}-{passage.end} is not finite", code="non_finite"
    )
