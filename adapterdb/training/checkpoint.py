"""The state of a training run in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adapterdb.errors import Corrupt, Mismatch


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace ``path`` by this state in one rename.

    Args:
        path: the file; its folder is made if missing.
        tensors: any dtypes.
        facts: what JSON can hold.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, partial, metadata={"facts": json.dumps(facts)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_run(path: Path, run: object, what: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What ``load_checkpoint`` gives, if it is of this run.

    Args:
        run: the fact ``run`` of a checkpoint of ours, as JSON-able data.
        what: must be the same, in words.

    Raises:
        Mismatch: code ``checkpoint_mismatch``, if it is of another.
    """
    found = load_checkpoint(path)
    if found is not None and found[1].get("run") != run:
        raise Mismatch(
            f"{path} is a checkpoint of other {what}",
            code="checkpoint_mismatch",
            hint="remove it to begin anew, or name another file",
        )
    return found


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of a checkpoint, or None where there is none yet.

    Raises:
        Corrupt: if the file isn't one of ``save_checkpoint``.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise Corrupt(
            f"{path} is no checkpoint of a training run: {error}",
            hint="remove it to begin anew",
        ) from error
    return tensors, facts
