"""Clusters: which passages share a delta, and which it is made from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from adapterdb.errors import InvalidInput
from adapterdb.ingest.clusters import ClusterOptions, cluster, delta_directions


def groups(sizes: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in tight groups around random directions, group after group."""
    generator = np.random.default_rng(seed)
    parts = []
    for size in sizes:
        centre = generator.standard_normal(16)
        parts.append(centre / np.linalg.norm(centre) + 0.02 * generator.standard_normal((size, 16)))
    found = np.concatenate(parts)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def partition(labels: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def test_groups_are_found() -> None:
    found = cluster(groups((5, 3, 7)), ClusterOptions(3))
    expected = {frozenset(range(5)), frozenset(range(5, 8)), frozenset(range(8, 15))}
    assert partition(found.labels) == expected


def test_auto_finds_how_many_there_are() -> None:
    found = cluster(groups((8, 8, 8, 8)), ClusterOptions())
    assert partition(found.labels) == {frozenset(range(i, i + 8)) for i in range(0, 32, 8)}


def test_the_centroid_is_the_passage_nearest_to_the_centre() -> None:
    vectors = groups((6,))
    found = cluster(vectors, ClusterOptions(1))
    distances = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    assert found.representatives == [[int(distances.argmin())]]


def test_a_sample_is_drawn_from_its_own_cluster_by_the_seed() -> None:
    vectors = groups((6, 9))
    options = ClusterOptions(2, "sample", sample=4, seed=3)
    found = cluster(vectors, options)
    assert [len(chosen) for chosen in found.representatives] == [4, 4]
    for label, chosen in enumerate(found.representatives):
        assert len(set(chosen)) == 4
        assert {int(found.labels[i]) for i in chosen} == {label}
    assert cluster(vectors, options).representatives == found.representatives


def test_all_are_representatives_where_asked() -> None:
    found = cluster(groups((4, 2)), ClusterOptions(2, "all"))
    assert sorted(i for chosen in found.representatives for i in chosen) == list(range(6))


def test_more_clusters_than_passages_are_as_many_as_differ() -> None:
    vectors = np.repeat(groups((3,)), 2, axis=0)
    found = cluster(vectors, ClusterOptions(10))
    assert len(found.representatives) == 3
    assert found.labels.tolist()[::2] == found.labels.tolist()[1::2]


def test_one_passage_is_one_cluster() -> None:
    assert cluster(groups((1,)), ClusterOptions()).representatives == [[0]]


def test_deltas_are_compared_by_direction_and_their_largest_numbers() -> None:
    generator = np.random.default_rng(1)
    base = generator.standard_normal((2, 200)).astype(np.float32)
    base[:, 40:] *= 0.01  # what is small is noise, and set to zero
    strengths = generator.uniform(0.1, 10, (12, 1)).astype(np.float32)
    rows = base[np.arange(12) % 2] * strengths
    rows += 0.001 * generator.standard_normal(rows.shape).astype(np.float32) * strengths
    directions = delta_directions(rows)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    found = cluster(directions, ClusterOptions(2, "all"))
    assert partition(found.labels) == {frozenset(range(0, 12, 2)), frozenset(range(1, 12, 2))}


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"sample": 0}, {"representative": "mean"}, {"count": True}]
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        ClusterOptions(**wrong)  # type: ignore[arg-type]


def test_nothing_can_t_be_clustered() -> None:
    with pytest.raises(InvalidInput, match="no passage"):
        cluster(np.zeros((0, 4), np.float32), ClusterOptions(2))
