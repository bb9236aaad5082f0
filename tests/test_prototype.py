"""Prototypes: the direction in which a delta acts most strongly."""

from __future__ import annotations

import torch

from adapterdb import prototype
from adapterdb.layout import DeltaLayout, Site

LAYOUT = DeltaLayout(3, 6.0, (Site("q", 8, 5, 0), Site("k", 8, 7, 0), Site("up", 6, 9, 1)))


def test_a_prototype_is_the_top_right_singular_vector() -> None:
    """At each site A.T @ core is a unit vector along the first right-singular vector of B A."""
    rows = torch.randn(4, LAYOUT.size, generator=torch.Generator().manual_seed(0))
    found = prototype.cores(LAYOUT, rows)
    for row, mine in zip(rows, found, strict=True):
        for (a, b), core in zip(LAYOUT.views(row), mine, strict=True):
            vector = a.T @ core
            want = torch.linalg.svd(b.T @ a).Vh[0]
            assert abs(float(vector.norm()) - 1) < 1e-4
            assert abs(float(vector @ want)) > 1 - 1e-4


def test_missing_ranks_and_missing_sites() -> None:
    """A delta of lower rank, padded with zeros, has the same prototype; one of nothing has none."""
    row = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(1))
    for index in range(len(LAYOUT.sites)):
        LAYOUT.a(row, index)[2] = 0
        LAYOUT.b(row, index)[2] = 0
    LAYOUT.b(row, 1).zero_()
    (found,) = prototype.cores(LAYOUT, row[None])
    assert torch.equal(found[1], torch.zeros(3))
    for index in (0, 2):
        vector = LAYOUT.a(row, index).T @ found[index]
        want = torch.linalg.svd(LAYOUT.b(row, index).T @ LAYOUT.a(row, index)).Vh[0]
        assert abs(float(vector @ want)) > 1 - 1e-4


def test_bytes_come_back() -> None:
    """What the catalog keeps is what was given."""
    row = torch.randn(1, LAYOUT.size, generator=torch.Generator().manual_seed(2))
    (core,) = prototype.cores(LAYOUT, row)
    assert torch.equal(prototype.from_bytes(LAYOUT, prototype.to_bytes(core)), core)
