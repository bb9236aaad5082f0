"""PEFT folders in and out; peft itself judges that the logits are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from adapterdb.adapted_model import AdaptedModel
from adapterdb.base_model import load_base_model
from adapterdb.errors import AdapterDBError
from adapterdb.layout import DeltaLayout, LoraSpec, Site, plan_layout
from adapterdb.peft_format import CONFIG_FILE, read_peft, write_peft

IDS = torch.tensor([[1, 40, 41, 42, 43, 44]])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("target", ["mlp", "attn", "all"])
def test_exported_row_gives_pefts_logits(
    tiny_folder: Callable[[str], Path], tmp_path: Path, kind: str, target: str
) -> None:
    """peft loading our folder, and our hooks with the row, give the same logits."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    layout = plan_layout(LoraSpec(rank=3, alpha=6.0, targets=(target,)), base.linears())
    row = torch.randn(layout.size) * 0.2
    plain = base.model(IDS).logits
    adapted = AdaptedModel(base.model, layout)
    with adapted.using_rows(row[None]):
        ours = base.model(IDS).logits
    assert torch.equal(base.model(IDS).logits, plain)
    adapted.remove()
    write_peft(tmp_path / "out", row, layout, base_model="x", fan_in_fan_out=kind == "gpt2")
    theirs = peft.PeftModel.from_pretrained(base.model, str(tmp_path / "out"))(IDS).logits
    assert (theirs - plain).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.equal(read_peft(tmp_path / "out", layout), row)


def test_peft_folder_of_lower_rank_and_other_scale_is_read(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """An adapter saved by peft with fewer modules, rank and another alpha acts as it did there."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["up_proj"], init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(base.model, config)
    theirs = model(IDS).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    model.unload()
    layout = plan_layout(LoraSpec(rank=4, alpha=4.0), base.linears())
    row = read_peft(tmp_path, layout)
    with AdaptedModel(base.model, layout).using_rows(row[None]):
        torch.testing.assert_close(base.model(IDS).logits, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"peft_type": "IA3"}, "not_lora"),
        ({"use_dora": True}, "not_lora"),
        ({"bias": "all"}, "not_lora"),
        ({"r": "2"}, "not_lora"),
        ({"r": 9}, "layout_mismatch"),
        ({"r": 1}, "layout_mismatch"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, change: dict[str, object], code: str) -> None:
    """A config that is no plain LoRA of the layout's rank is refused with a stable code."""
    layout = DeltaLayout(2, 4.0, (Site("m.0.up_proj", 3, 5, 0),))
    write_peft(tmp_path, torch.ones(layout.size), layout, base_model="x")
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterDBError) as caught:
        read_peft(tmp_path, layout)
    assert caught.value.code == code


def test_unknown_module_missing_file_and_nan_are_refused(tmp_path: Path) -> None:
    """Tensors outside the layout, missing files and non-finite numbers are named and refused."""
    layout = DeltaLayout(2, 4.0, (Site("m.0.up_proj", 3, 5, 0),))
    other = DeltaLayout(2, 4.0, (Site("m.0.down_proj", 3, 5, 0),))
    write_peft(tmp_path / "a", torch.ones(layout.size), layout, base_model="x")
    with pytest.raises(AdapterDBError, match="up_proj"):
        read_peft(tmp_path / "a", other)
    with pytest.raises(AdapterDBError, match="adapter_config"):
        read_peft(tmp_path / "none", layout)
    write_peft(tmp_path / "b", torch.full((layout.size,), float("nan")), layout, base_model="x")
    with pytest.raises(AdapterDBError, match="NaN"):
        read_peft(tmp_path / "b", layout)
    with pytest.raises(AdapterDBError, match="not empty"):
        write_peft(tmp_path / "a", torch.ones(layout.size), layout, base_model="x")
