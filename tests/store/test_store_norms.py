"""What counts as a usual norm in a namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
import store_making as making
import torch

from adapterdb.records import Document, Passage
from adapterdb.store import NewDocument, NewPassage, Store
from adapterdb.store.norms import _rounded


def put(store: Store, name: str, scale: float, kind: str = "gradient", space: str = "n") -> None:
    """A document whose one delta is a row of ones, scaled."""
    row = torch.full((1, making.P), scale).bfloat16()
    (ref,) = store.write_rows(row, factors=kind != "gradient")
    entry = NewPassage(Passage(0, 0, 1, "x", 1), making.vector(name), ref, kind, "test")  # type: ignore[arg-type]
    store.commit([NewDocument(space, Document(name, "x"), "", name, (entry,))])


def usual(gradient_scale: float) -> float:
    """What the norm of such a row is rounded to."""
    return _rounded(gradient_scale * making.P**0.5)


def test_the_typical_norm_is_the_median_of_its_kind(tmp_path: Path) -> None:
    """Of active deltas of one namespace; LoRA factors and gradients apart, imported with LoRA."""
    with making.make(tmp_path) as store:
        for i, scale in enumerate((1.0, 2.0, 1000.0)):
            put(store, f"g{i}", scale)
            put(store, f"other{i}", 64.0, space="other")
        put(store, "dead", 0.0)
        assert store.norms.typical("n", "gradient") == pytest.approx(usual(2.0))
        assert store.norms.typical("n", "lora") is None
        put(store, "l0", 1.0, "lora")
        put(store, "l1", 1.0, "imported")
        assert store.norms.typical("n", "imported") is None
        put(store, "l2", 1.0, "lora")
        factors = store.info.layout.change_norms(torch.ones(1, making.P)).item()
        for kind in ("lora", "imported"):
            assert store.norms.typical("n", kind) == pytest.approx(_rounded(factors))  # type: ignore[arg-type]
        store.delete("n", ["g1", "g2"])
        assert store.norms.typical("n", "gradient") is None


def test_the_typical_norm_follows_the_catalog(tmp_path: Path) -> None:
    """It is looked up again when a tenth as many changes were made as it stands for."""
    with making.make(tmp_path) as store:
        for i in range(20):
            put(store, f"d{i}", 1.0)
        assert store.norms.typical("n", "gradient") == pytest.approx(usual(1.0))
        store.delete("n", [f"d{i}" for i in range(18)])
        for i in range(3):
            put(store, f"new{i}", 8.0)
        assert store.norms.typical("n", "gradient") == pytest.approx(usual(8.0))


def test_one_document_more_hardly_ever_moves_it() -> None:
    """Norms are rounded by at most 5%, and those within a step are one."""
    for norm in (1e-6, 0.3, 1.0, 2.83, 1e9):
        assert _rounded(norm) == pytest.approx(norm, rel=0.05)
    assert _rounded(2.80) == _rounded(2.86)


def test_the_norm_of_factors_is_that_of_what_they_change(tmp_path: Path) -> None:
    """Scaling B alone scales it, however small B is beside A."""
    layout = making.LAYOUT
    rows = torch.randn(3, making.P, generator=torch.Generator().manual_seed(1))
    a, b = layout.a(rows, 0), layout.b(rows, 0)
    wanted = torch.stack([(layout.scale * y.T @ x).norm() for x, y in zip(a, b, strict=True)])
    assert layout.change_norms(rows).tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    layout.b(rows, 0).mul_(1e3)
    assert layout.change_norms(rows).tolist() == pytest.approx((1e3 * wanted).tolist(), rel=1e-5)
    with making.make(tmp_path) as store:
        stored = rows.bfloat16()
        norms = [ref.norm for ref in store.write_rows(stored, factors=True)]
        assert norms == pytest.approx(layout.change_norms(stored).tolist())
