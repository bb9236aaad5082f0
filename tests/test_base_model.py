"""Loading a base model: fingerprint, refusals, device and dtype."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterdb.base_model import choose_device, choose_dtype, fingerprint, load_base_model
from adapterdb.errors import InvalidInput, ModelUnavailable


@pytest.fixture
def copy(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A private copy of the tiny Llama."""
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))


def test_fingerprint_ignores_sharding_and_dtype_of_loading(copy: Path) -> None:
    """Splitting the weights over two files leaves the fingerprint as it was."""
    before = fingerprint(copy)
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    for part, half in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in half}, copy / f"model-{part}.safetensors")
    assert fingerprint(copy) == before


@pytest.mark.parametrize("what", ["weight", "config", "tokenizer"])
def test_fingerprint_sees_every_change(copy: Path, what: str) -> None:
    """One changed number, config value or token changes the fingerprint."""
    before = fingerprint(copy)
    if what == "weight":
        tensors = load_file(copy / "model.safetensors")
        tensors["model.norm.weight"][0] += 1e-6
        save_file(tensors, copy / "model.safetensors")
    else:
        path = copy / ("config.json" if what == "config" else "tokenizer.json")
        data = json.loads(path.read_text())
        if what == "config":
            data["rms_norm_eps"] = 1e-3
        else:
            data["model"]["vocab"]["<new>"] = 300
        path.write_text(json.dumps(data))
    assert fingerprint(copy) != before


def test_missing_and_broken_models_are_said_to_be(copy: Path) -> None:
    """A name that is nowhere, and a folder without weights, raise ModelUnavailable with a hint."""
    with pytest.raises(ModelUnavailable, match="neither a folder nor"):
        load_base_model("no-such-organisation/no-such-model")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="can't be loaded"):
        load_base_model(str(copy))


def test_pickled_weights_are_not_read(copy: Path) -> None:
    """A folder that has only a pickled checkpoint is refused, whatever is in it."""
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable):
        load_base_model(str(copy))


def test_models_with_own_code_are_refused(copy: Path) -> None:
    """A config that points at code of its own is not followed."""
    data = json.loads((copy / "config.json").read_text())
    data |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    data["model_type"] = "evil"
    (copy / "config.json").write_text(json.dumps(data))
    (copy / "evil.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ModelUnavailable):
        load_base_model(str(copy))


def test_model_is_frozen(tiny_folder: Callable[[str], Path]) -> None:
    """No parameter asks for gradients and dropout is off."""
    base = load_base_model(str(tiny_folder("bert")))
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training


def test_device_and_dtype_are_checked() -> None:
    """Unknown devices and dtypes are refused by name; small CPU models stay in float32."""
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu, size_bytes=10) == torch.float32
    assert choose_dtype("bfloat16", cpu, size_bytes=10) == torch.bfloat16
    for call in (
        lambda: choose_device("tpu"),
        lambda: choose_device("meta"),
        lambda: choose_dtype("int8", cpu, size_bytes=10),
    ):
        with pytest.raises(InvalidInput):
            call()
