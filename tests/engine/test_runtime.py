"""Mixtures acting on a model; peft's own composition is the judge where it has the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from adapterdb.answers import Mixture
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.runtime import Registered, Runtime
from adapterdb.errors import NotFound
from adapterdb.layout import DeltaLayout, LoraSpec, plan_layout
from adapterdb.peft_format import write_peft
from adapterdb.store.rows import RowRef
from adapterdb.training.start import Start

IDS = torch.tensor([[1, 40, 41, 42, 43, 44]])
MIXTURES = [
    Mixture((("a", 0.5), ("b", 0.3), ("c", 0.2))),
    Mixture(),
    Mixture((("d", 1.0),)),
    Mixture((("c", 0.7), ("a", 0.3))),
]


def registered(gradient: str = "") -> dict[str, Registered]:
    """Rows a to d, those named in ``gradient`` as gradient deltas, the others as LoRA."""
    return {
        n: Registered("gradient" if n in gradient else "lora", RowRef(n, 0, 0, "float32", "", 1.0))
        for n in "abcd"
    }


def runtime(
    base: BaseModel,
    rows: Mapping[str, Tensor],
    layout: DeltaLayout,
    start: Start | None = None,
    starts: Callable[[str], Start] | None = None,
) -> Runtime:
    """A runtime that loads from a dict."""
    start = start or Start(torch.zeros(layout.size), torch.zeros(layout.size))
    return Runtime(
        base,
        layout,
        start,
        slots=4,
        dtype=torch.float32,
        load=lambda row, slot: slot.copy_(rows[row.file]),  # type: ignore[arg-type,return-value]
        starts=starts,
    )


def random_start(layout: DeltaLayout, seed: int) -> Start:
    """A start with numbers of its own."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(layout.size, generator=generator) * 0.1
    return Start(theta, torch.rand(layout.size, generator=generator))


def setup(
    tiny_folder: Callable[[str], Path], kind: str
) -> tuple[BaseModel, DeltaLayout, dict[str, Tensor]]:
    """A tiny base, a layout over all its linears, and four random rows."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    layout = plan_layout(LoraSpec(rank=2, alpha=4.0, targets=("all",)), base.linears())
    generator = torch.Generator().manual_seed(3)
    rows = {n: torch.randn(layout.size, generator=generator) * 0.2 for n in "abcd"}
    return base, layout, rows


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_mixed_batch_equals_pefts_cat_one_by_one(
    tiny_folder: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """Each row of a batch with its own mixture gives the logits of peft's weighted cat alone."""
    base, layout, rows = setup(tiny_folder, kind)
    plain = base.model(IDS).logits
    with runtime(base, rows, layout).acting(MIXTURES, registered()) as model:
        ours = model(IDS.expand(len(MIXTURES), -1)).logits
    assert torch.equal(base.model(IDS).logits, plain)
    for name, row in rows.items():
        write_peft(tmp_path / name, row, layout, base_model="x", fan_in_fan_out=kind == "gpt2")
    judge = peft.PeftModel.from_pretrained(base.model, str(tmp_path / "a"), adapter_name="a")
    for name in "bcd":
        judge.load_adapter(str(tmp_path / name), adapter_name=name)
    for row, mixture in enumerate(MIXTURES):
        want = plain
        if mixture.parts:
            names, weights = zip(*mixture.parts, strict=True)
            judge.add_weighted_adapter(list(names), list(weights), f"m{row}", "cat")
            judge.set_adapter(f"m{row}")
            want = judge(IDS).logits
            assert (want - plain).abs().max() > 1e-2
        torch.testing.assert_close(ours[row : row + 1], want, atol=2e-5, rtol=1e-5)


def test_gradient_parts_act_as_one_step(tiny_folder: Callable[[str], Path]) -> None:
    """Gradient deltas act as theta - alpha * sum of weighted gradients, beside LoRA ones."""
    base, layout, rows = setup(tiny_folder, "llama")
    generator = torch.Generator().manual_seed(4)
    start = Start(
        torch.randn(layout.size, generator=generator) * 0.1,
        torch.rand(layout.size, generator=generator),
    )
    it = runtime(base, rows, layout, start)
    with it.acting(MIXTURES, registered(gradient="abc")) as model:
        ours = model(IDS.expand(len(MIXTURES), -1)).logits
    stepped = start.step(0.5 * rows["a"] + 0.3 * rows["b"] + 0.2 * rows["c"])
    other = start.step(0.7 * rows["c"] + 0.3 * rows["a"])
    for row, want_row in ((0, stepped), (2, rows["d"]), (3, other)):
        with it.adapted.using_rows(want_row[None]):
            want = base.model(IDS).logits
        torch.testing.assert_close(ours[row : row + 1], want, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1:2], base.model(IDS).logits, atol=2e-5, rtol=1e-5)


def test_base_weights_are_untouched(tiny_folder: Callable[[str], Path]) -> None:
    """After any sequence of requests every base weight is bit for bit what it was."""
    base, layout, rows = setup(tiny_folder, "gpt2")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    it = runtime(base, rows, layout)
    for _ in range(3):
        with it.acting(MIXTURES, registered()) as model:
            model(IDS.expand(len(MIXTURES), -1))
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())


def test_gradients_of_several_starts_each_step_from_their_own(
    tiny_folder: Callable[[str], Path],
) -> None:
    """Each start gives one row of all its gradients, acting with its share of the weights."""
    base, layout, rows = setup(tiny_folder, "llama")
    own, other = random_start(layout, 4), random_start(layout, 5)
    kinds = registered(gradient="abc")
    kinds["a"] = kinds["a"]._replace(start=own.fingerprint)
    kinds["c"] = kinds["c"]._replace(start=other.fingerprint)
    it = runtime(base, rows, layout, own, {other.fingerprint: other}.__getitem__)
    mixture = Mixture((("a", 0.4), ("b", 0.2), ("c", 0.2), ("d", 0.5)))
    with it.acting([mixture, Mixture((("c", 1.0),))], kinds) as model:
        ours = model(IDS.expand(2, -1)).logits
    stepped = own.step((0.4 * rows["a"] + 0.2 * rows["b"]) / 0.75)
    apart = other.step(0.2 * rows["c"] / 0.25)
    bank = {"own": stepped, "other": apart, "d": rows["d"]}
    lora = {n: Registered("lora", RowRef(n, 0, 0, "float32", "", 1.0)) for n in bank}
    want = Mixture((("own", 0.75), ("other", 0.25), ("d", 0.5)))
    with runtime(base, bank, layout).acting([want], lora) as model:
        torch.testing.assert_close(ours[:1], model(IDS).logits, atol=2e-5, rtol=1e-5)
    with it.adapted.using_rows(other.step(rows["c"])[None]):
        torch.testing.assert_close(ours[1:], base.model(IDS).logits, atol=2e-5, rtol=1e-5)


def test_weights_of_nothing_take_no_step(tiny_folder: Callable[[str], Path]) -> None:
    """Where every weight is 0 the starts act alone, in equal shares; unknown ones are errors."""
    base, layout, rows = setup(tiny_folder, "llama")
    own, other = random_start(layout, 4), random_start(layout, 5)
    kinds = registered(gradient="abc")
    kinds["c"] = kinds["c"]._replace(start=other.fingerprint)
    it = runtime(base, rows, layout, own, {other.fingerprint: other}.__getitem__)
    with it.acting([Mixture((("a", 0.0), ("c", 0.0)))], kinds) as model:
        ours = model(IDS).logits
    lora = {n: Registered("lora", RowRef(n, 0, 0, "float32", "", 1.0)) for n in "xy"}
    bank = {"x": own.theta, "y": other.theta}
    with runtime(base, bank, layout).acting([Mixture((("x", 0.5), ("y", 0.5)))], lora) as model:
        torch.testing.assert_close(ours, model(IDS).logits, atol=2e-5, rtol=1e-5)
    alone = runtime(base, rows, layout, own)
    with pytest.raises(NotFound), alone.acting([Mixture((("c", 1.0),))], kinds):
        pass
