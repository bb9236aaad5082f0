"""Quality at the door: deltas that say nothing of their passage are made again or flagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import load_base_model
from adapterdb.ingest.quality import (
    ENCODES_NOTHING,
    NOT_SPECIFIC,
    Verdict,
    better_of,
    encodes_nothing,
    shift_losses,
    stronger,
)
from adapterdb.layout import plan_layout
from adapterdb.training import bank
from adapterdb.training.bank import Fitted
from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import get_recipe
from adapterdb.training.start import base_weight

DATA = [[TokenSequence(tuple(range(i, i + 12)))] for i in range(20, 29)]


@pytest.mark.parametrize(
    ("before", "after", "shifted", "flag"),
    [
        (4.0, 2.0, 3.0, ""),
        (4.0, 2.0, None, ""),
        (4.0, 3.999, 3.9995, ENCODES_NOTHING),
        (4.0, 5.0, None, ENCODES_NOTHING),
        (4.0, float("nan"), None, ""),
        (4.0, 2.0, 2.0, NOT_SPECIFIC),
        (4.0, 2.0, 1.5, NOT_SPECIFIC),
    ],
)
def test_verdicts(before: float, after: float, shifted: float | None, flag: str) -> None:
    if after != after:  # such a delta is rejected before it is judged
        assert encodes_nothing(fitted([before], [after])).tolist() == [True]
    else:
        assert Verdict(before, after, shifted).flag == flag


def fitted(before: list[float], after: list[float]) -> Fitted:
    rows = torch.arange(float(len(before)))[:, None].expand(-1, 3).clone()
    return Fitted(rows, torch.tensor(before), torch.tensor(after))


def test_a_second_try_counts_only_where_it_is_better() -> None:
    first = fitted([4.0, 4.0, 4.0], [4.0, 1.0, 4.1])
    weak = encodes_nothing(first)
    assert weak.tolist() == [True, False, True]
    second = Fitted(torch.full((2, 3), 9.0), torch.tensor([4.0, 4.0]), torch.tensor([2.0, 5.0]))
    best = better_of(first, weak, second)
    assert best.loss_after.tolist() == pytest.approx([2.0, 1.0, 4.1])
    assert best.rows[:, 0].tolist() == [9.0, 1.0, 2.0]
    assert first.rows[0, 0] == 0


def test_a_gradient_has_no_second_try() -> None:
    assert stronger(get_recipe("gradient", has_meta_init=True)) is None
    again = stronger(get_recipe("rg", has_meta_init=False))
    assert again is not None
    assert (again.epochs, again.lr) == (6, pytest.approx(9e-4))


def test_the_shift_test_takes_a_delta_of_another_document(
    tiny_folder: Callable[[str], Path],
) -> None:
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    layout = plan_layout(LoraSpec(rank=2), base.linears())
    adapted = AdaptedModel(base.model, layout)
    start = base_weight(layout)
    rows = bank.train(
        adapted, start.theta.expand(len(DATA), -1).clone(), DATA,
        replace(get_recipe("rg", has_meta_init=False), lr=3e-2),
    )  # fmt: skip
    owners = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    found = shift_losses(adapted, rows, DATA, owners)
    assert [i for i, loss in enumerate(found) if loss is not None] == [0, 8]
    for i, other in ((0, 2), (8, 0)):
        assert found[i] == pytest.approx(float(bank.losses(adapted, rows[[other]], [DATA[i]])))
        assert found[i] > float(bank.losses(adapted, rows[[i]], [DATA[i]]))  # type: ignore[operator]
    assert shift_losses(adapted, rows[:1], DATA[:1], [0]) == [None]


def test_what_was_judged_is_stored_and_counted(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A recipe that barely moves is tried more strongly, then flagged; a good one is not."""
    nothing = tmp_path / "nothing.toml"
    nothing.write_text("kind = 'delta'\nproduces = 'lora'\nlr = 1e-9\n", encoding="utf-8")
    config = Config(base=str(tiny_folder("llama")), recipe=str(nothing), lora=LoraSpec(rank=2))
    texts = {"ash": "Ash burns well and is used for handles.", "oak": "7 9 21 44 13 08 77 95 3 12"}
    documents = [Document(name, text) for name, text in texts.items()]
    with AdapterDB.create(tmp_path / "h", config, options=LoadOptions(dtype="float32")) as db:
        db.ingest(documents)
        weak = [delta for d in documents for delta in db.deltas(d.name)]
        assert {delta.flag for delta in weak} == {ENCODES_NOTHING}
        assert sum(delta.loss_shifted is not None for delta in weak) == 1
        assert db.stats().flagged == 2
        strong = tmp_path / "strong.toml"
        strong.write_text(
            "kind = 'delta'\nproduces = 'lora'\nlr = 3e-2\nepochs = 8\n", encoding="utf-8"
        )
        db.ingest(documents, recipe=str(strong))
        assert {delta.flag for d in documents for delta in db.deltas(d.name)} == {""}
        assert {delta.recipe for delta in db.deltas("ash")} == {"strong"}
        assert db.stats().flagged == 0
