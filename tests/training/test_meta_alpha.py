"""Step sizes: how many numbers each mode learns, and which numbers of a row share one."""

from __future__ import annotations

import pytest
import torch

from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.training.meta.alpha import StepSizes

NAMES = [f"model.layers.{i}.mlp.{name}_proj" for i in range(2) for name in ("gate", "up")]
LAYOUT = plan_layout(LoraSpec(2), [(name, 3, 5) for name in NAMES])


def test_tie_has_one_number_for_each_tensor() -> None:
    """Moving one learned number moves one A or one B as a whole, and nothing else."""
    sizes = StepSizes(LAYOUT, torch.full((LAYOUT.size,), 0.01), "tie")
    values = sizes.values
    assert values.shape == (2 * len(LAYOUT.sites),)
    with torch.no_grad():
        values[5] = 7.0
    row = sizes().detach()
    for i in range(len(LAYOUT.sites)):
        assert bool((LAYOUT.a(row, i) == 0.01).all())
        assert bool((LAYOUT.b(row, i) == 7.0).all()) == (i == 2)
    assert int((row == 7.0).sum()) == 2 * 5


@pytest.mark.parametrize(("mode", "count"), [("full", LAYOUT.size), ("same", 1), ("fix", 0)])
def test_numbers_learned(mode: str, count: int) -> None:
    """full learns every number, same one, fix none; each begins where the row is on average."""
    row = torch.rand(LAYOUT.size)
    sizes = StepSizes(LAYOUT, row, mode)  # type: ignore[arg-type]
    assert sum(p.numel() for p in sizes.parameters()) == count
    want = row.mean().expand_as(row) if mode == "same" else row
    torch.testing.assert_close(sizes().detach(), want)


def test_logarithm_gives_the_same_beginning() -> None:
    """Learned as logarithms the step sizes begin the same; what isn't positive is refused."""
    row = torch.rand(LAYOUT.size) + 0.1
    torch.testing.assert_close(StepSizes(LAYOUT, row, "full", "log")().detach(), row)
    with pytest.raises(InvalidInput, match="positive"):
        StepSizes(LAYOUT, row - 1, "tie", "log")
