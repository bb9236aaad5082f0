"""Which passages share one delta, and which of them it is made from. Pure functions over arrays.

by text     k-means over passage vectors; the delta is made from the passage nearest to the
            centre, or from a few drawn at random (Retrievable Gradient, second scenario)
by deltas   model-based clustering (arXiv 2405.11157, section 3): each delta's small numbers set
            to zero, 64 principal directions, k-means by direction; made from all its passages
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapterdb.errors import InvalidInput
from adapterdb.records import Record, check_int

Representative = Literal["centroid", "sample", "all"]
PRUNED = 0.8  # share of a delta's numbers set to zero before deltas are compared
COMPONENTS = 64
SILHOUETTE_SAMPLE = 2000


@dataclass(frozen=True)
class ClusterOptions(Record):
    """How passages are put together.

    Args:
        count: clusters, 1 or more; None finds a number by silhouette.
        representative: ``centroid``, ``sample`` or ``all``: the passages a delta is made from.
        sample: how many for ``sample``.
        seed: of k-means and of the drawing.
    """

    count: int | None = None
    representative: Representative = "centroid"
    sample: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count is not None:
            check_int("clusters", self.count, 1, 10**7)
        check_int("cluster sample", self.sample, 1, 10**6)
        if self.representative not in ("centroid", "sample", "all"):
            raise InvalidInput(
                f"representative {self.representative!r} is not one of centroid, sample, all"
            )


class Clustering(NamedTuple):
    """Labels and representatives.

    Attributes:
        labels: int ``(n,)``, the cluster of each passage, 0 to C - 1, none empty.
        representatives: C lists of passages, by place, best first.
    """

    labels: NDArray[np.int64]
    representatives: list[list[int]]


def cluster(vectors: NDArray[np.float32], options: ClusterOptions) -> Clustering:
    """Cluster unit vectors ``(n, D)``; at most n clusters.

    Raises:
        InvalidInput: if there is nothing to cluster.
    """
    if not len(vectors):
        raise InvalidInput("there is no passage to cluster")
    count = options.count or _best_count(vectors, options.seed)
    labels, centres = _k_means(vectors, min(count, len(vectors)), options.seed)
    _, labels = np.unique(labels, return_inverse=True)
    distances = np.linalg.norm(vectors - centres, axis=1)
    generator = np.random.default_rng(options.seed)
    chosen = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        if options.representative == "centroid":
            members = members[[distances[members].argmin()]]
        elif options.representative == "sample" and len(members) > options.sample:
            members = np.sort(generator.choice(members, options.sample, replace=False))
        chosen.append([int(i) for i in members])
    return Clustering(labels.astype(np.int64), chosen)


def delta_directions(rows: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """What deltas ``(n, P)`` are compared by: unit vectors ``(n, min(64, n - 1, ...))``."""
    from sklearn.decomposition import TruncatedSVD

    keep = max(1, round((1 - PRUNED) * rows.shape[1]))
    kept = np.zeros_like(rows)
    largest = np.argpartition(np.abs(rows), -keep, axis=1)[:, -keep:]
    np.put_along_axis(kept, largest, np.take_along_axis(rows, largest, 1), 1)
    parts = min(COMPONENTS, rows.shape[0], rows.shape[1] - 1)
    if parts < 1:
        return _unit(kept)
    found = TruncatedSVD(parts, random_state=seed).fit_transform(kept)
    return _unit(found.astype(np.float32))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return unit


def _k_means(
    vectors: NDArray[np.float32], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels ``(n,)``, and the centre ``(n, D)`` of each vector's cluster."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors, axis=0)))
    model = KMeans(count, n_init=4, random_state=seed).fit(vectors)
    labels = model.labels_.astype(np.int64)
    return labels, model.cluster_centers_[labels]


def _best_count(vectors: NDArray[np.float32], seed: int) -> int:
    """The count of the best silhouette among a few around sqrt(n / 2), on a sample."""
    from sklearn.metrics import silhouette_score

    n = len(vectors)
    usual = max(2, round((n / 2) ** 0.5))
    tried = sorted({max(2, usual // 2), usual, min(2 * usual, n - 1), min(4 * usual, n - 1)})
    scores = {}
    for count in tried:
        if not 2 <= count < n:
            continue
        labels, _ = _k_means(vectors, count, seed)
        if len(set(labels.tolist())) > 1:
            scores[count] = silhouette_score(
                vectors, labels, sample_size=min(n, SILHOUETTE_SAMPLE), random_state=seed
            )
    return max(scores, key=lambda count: scores[count]) if scores else 1
