"""Delta rows in and out of PEFT folders (``adapter_config.json``, ``adapter_model.safetensors``).

What is read is checked against the layout: only plain LoRA of the layout's own modules, rank and
scale; anything else is refused by name. Nothing in a config is followed: no base is loaded from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterdb.errors import Exists, InvalidInput, Mismatch, NotFound
from adapterdb.layout import DeltaLayout

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
_PREFIX = "base_model.model."
# options of peft's LoraConfig under which B A x is no longer what the factors mean
_UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "alora_invocation_tokens",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "lora_bias",
)


def write_peft(
    folder: Path,
    row: Tensor,
    layout: DeltaLayout,
    *,
    base_model: str,
    fan_in_fan_out: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one row as a PEFT folder that ``PeftModel.from_pretrained`` loads.

    Args:
        folder: made here; must not exist, or be empty.
        row: ``(P,)`` factors, any float dtype; stored as they are.
        layout: of the row.
        base_model: goes into ``base_model_name_or_path``.
        fan_in_fan_out: True for models built of Conv1D (GPT-2).
        metadata: goes into the safetensors header (provenance).

    Raises:
        Exists: if the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Exists(f"{str(folder)!r} exists and is not empty", hint="name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": None,
        "r": layout.rank,
        "lora_alpha": layout.alpha,
        "target_modules": [site.name for site in layout.sites],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
    }
    tensors = {}
    for name, (a, b) in layout.unpack(row).items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt", **(metadata or {})})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def read_peft(folder: Path, layout: DeltaLayout) -> Tensor:
    """The row ``(P,)`` float32 in a PEFT folder, its scale expressed in the layout's.

    An adapter of lower rank is padded with zero rank rows; modules of the layout that the adapter
    does not touch become zero. Both act exactly as the adapter did.

    Raises:
        NotFound: if there is no such folder or file in it.
        Mismatch: code ``not_lora`` for another kind of adapter, ``layout_mismatch`` for modules,
            shapes or a rank the layout has no room for, ``non_finite`` for NaN or infinity.
    """
    config = _read_config(folder)
    rank, alpha = config["r"], config["lora_alpha"]
    if rank > layout.rank:
        raise Mismatch(
            f"{str(folder)!r} has rank {rank}; this home's layout has {layout.rank}",
            code="layout_mismatch",
            hint="make a home with a higher --rank, or reduce the adapter's rank",
        )
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise Mismatch(f"{WEIGHTS_FILE} can't be read: {error}", code="not_lora") from error
    gain = alpha / rank / layout.scale
    names = {site.name: i for i, site in enumerate(layout.sites)}
    row = torch.zeros(layout.size)
    for key, tensor in tensors.items():
        name, dot, letter = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        if not dot or letter not in ("A", "B") or name not in names:
            raise Mismatch(
                f"tensor {key!r} belongs to no module of this home's layout",
                code="layout_mismatch",
                hint=f"modules are like {layout.sites[0].name!r}",
            )
        i, site = names[name], layout.sites[names[name]]
        want = (rank, site.in_features) if letter == "A" else (site.out_features, rank)
        if tuple(tensor.shape) != want:
            raise Mismatch(
                f"tensor {key!r} is {tuple(tensor.shape)}, expected {want}", code="layout_mismatch"
            )
        if not torch.isfinite(tensor).all():
            raise Mismatch(f"tensor {key!r} holds NaN or infinity", code="non_finite")
        if letter == "A":
            layout.a(row, i)[:rank] = tensor.float()
        else:
            layout.b(row, i)[:rank] = tensor.float().T * gain
    return row


def _read_config(folder: Path) -> dict[str, float]:
    """``r`` and ``lora_alpha`` of a plain LoRA config."""
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(
            f"{str(folder)!r} holds no {CONFIG_FILE} with {WEIGHTS_FILE}", code="not_found"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{path} is over {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Mismatch(f"{path} is no LoRA config (peft_type is not 'LORA')", code="not_lora")
    used = [key for key in _UNSUPPORTED if config.get(key)]
    if used or config.get("bias", "none") != "none":
        raise Mismatch(
            f"{path} uses {(used or ['bias'])[0]!r}, which plain LoRA factors can't express",
            code="not_lora",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise Mismatch(f"{path}: r is {rank!r}, lora_alpha is {alpha!r}", code="not_lora")
    if not math.isfinite(alpha):
        raise Mismatch(f"{path}: lora_alpha is {alpha!r}", code="not_lora")
    return {"r": rank, "lora_alpha": float(alpha)}
