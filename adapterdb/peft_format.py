"""Delta rows in and out of PEFT folders (``adapter_config.json``, ``adapter_model.safetensors``).

A folder comes from a stranger. What is read is checked against the layout: only plain LoRA of the
layout's own modules, rank and scale, whole, as peft would load it; anything else is refused by
name. Each file is read once, as bytes, its size bounded by the layout; the header is checked here
before the library sees it, which by itself takes any number of tensors, names twice, and a header
of 100 MB. Links are followed: the cache of the Hub is made of them.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from adapterdb.errors import Exists, InvalidInput, Mismatch, NotFound
from adapterdb.layout import DeltaLayout
from adapterdb.peft_config import MAX_CONFIG_BYTES, PeftConfig, once, parse_peft_config

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_HEADER_BYTES = 2**20
DTYPES = ("F32", "BF16", "F16")
_PREFIX = "base_model.model."


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
        InvalidInput: if the config is no JSON, or a file can't be read.
        Mismatch: code ``not_lora`` for another kind of adapter, ``layout_mismatch`` for modules,
            shapes or a rank the layout has no room for, ``non_finite`` for NaN or infinity.
    """
    config = parse_peft_config(
        _read(folder, CONFIG_FILE, MAX_CONFIG_BYTES), str(folder / CONFIG_FILE)
    )
    if config.rank > layout.rank:
        raise Mismatch(
            f"{str(folder)!r} has rank {config.rank}; this home's layout has {layout.rank}",
            code="layout_mismatch",
            hint="make a home with a higher --rank, or reduce the adapter's rank",
        )
    most = 8 + MAX_HEADER_BYTES + 4 * layout.size
    tensors = _tensors(_read(folder, WEIGHTS_FILE, most), config, layout)
    gain = config.alpha / config.rank / layout.scale
    row = torch.zeros(layout.size)
    for i, site in enumerate(layout.sites):
        a, b = (tensors.get(key) for key in _keys(site.name))
        if a is not None and b is not None:
            layout.a(row, i)[: config.rank] = a.float()
            layout.b(row, i)[: config.rank] = b.float().T * gain
    if not torch.isfinite(row).all():
        raise Mismatch(f"a tensor in {str(folder)!r} holds NaN or infinity", code="non_finite")
    return row


def _keys(site: str) -> tuple[str, str]:
    """What A and B of a module are called."""
    return f"{_PREFIX}{site}.lora_A.weight", f"{_PREFIX}{site}.lora_B.weight"


def _read(folder: Path, name: str, limit_bytes: int) -> bytes:
    """The bytes of the regular file ``name``, which may have at most ``limit_bytes``."""
    path = folder / name
    try:  # not blocking: a FIFO would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError
            data = file.read(limit_bytes + 1) if status.st_size <= limit_bytes else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
        raise NotFound(
            f"{str(folder)!r} holds no file {name}",
            hint=f"a PEFT folder holds {CONFIG_FILE} and {WEIGHTS_FILE}",
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}", code="unreadable") from error
    if data is None or len(data) > limit_bytes:
        raise Mismatch(
            f"{path} has over {limit_bytes} bytes, more than this home's layout can hold",
            code="layout_mismatch",
        )
    return data


def _tensors(data: bytes, config: PeftConfig, layout: DeltaLayout) -> dict[str, Tensor]:
    """The tensors in ``data``: both factors of each module that ``config`` adapts, no others."""
    expected: dict[str, list[int]] = {}
    for site in layout.sites:
        if config.adapts(site.name):
            a, b = _keys(site.name)
            expected[a] = [config.rank, site.in_features]
            expected[b] = [site.out_features, config.rank]
    header = _header(data)
    header.pop("__metadata__", None)
    for key, entry in header.items():
        want = expected.get(key)
        if want is None:
            raise Mismatch(
                f"tensor {key[:200]!r} belongs to no module of this home's layout that"
                " target_modules names",
                code="layout_mismatch",
                hint=f"modules are like {layout.sites[0].name!r}",
            )
        shape, dtype = _described(entry)
        if shape != want or dtype not in DTYPES:
            raise Mismatch(
                f"tensor {key!r} is {dtype!r:.20} {shape!r:.80}, expected {want} of"
                f" {', '.join(DTYPES)}",
                code="layout_mismatch",
            )
    missing = sorted(expected.keys() - header.keys())
    if missing or not expected:
        what = f"lacks tensor {missing[0]!r}" if missing else "adapts no module of this home"
        raise Mismatch(f"the adapter {what}", code="layout_mismatch")
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise Mismatch(f"{WEIGHTS_FILE} can't be read: {error}", code="not_lora") from error


def _header(data: bytes) -> dict[str, object]:
    """The header of a safetensors file, of bounded size and with no name twice."""
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise Mismatch(f"{WEIGHTS_FILE} is no safetensors file", code="not_lora")
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Mismatch(f"{WEIGHTS_FILE} can't be read: {error}", code="not_lora") from error
    if not isinstance(header, dict):
        raise Mismatch(f"{WEIGHTS_FILE} is no safetensors file", code="not_lora")
    return header


def _described(entry: object) -> tuple[object, object]:
    return (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else (None, None)
