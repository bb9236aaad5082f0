"""Where the files of a named model lie: a folder, or the Hub's cache on this disk; and writing one.

The one place that could reach a network, and does so only when the caller allows it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapterdb.errors import Exists, ModelUnavailable
from adapterdb.prompts import FILE_NAME, Prompts

_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]


def find_model_folder(name: str, *, allow_download: bool = False) -> Path:
    """The folder of model ``name`` (a path or a Hub id).

    Raises:
        ModelUnavailable: if it is no folder and not on this disk, and may not be downloaded.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, local_files_only=not allow_download, allow_patterns=_PATTERNS)
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise ModelUnavailable(
            f"{name!r} is neither a folder nor a model already on this disk",
            hint="give a folder, or allow the download with --allow-download",
        ) from error


def check_new_folder(folder: Path) -> None:
    """Exists if there is something called so already."""
    if folder.exists():
        raise Exists(f"{folder} exists already", hint="name a folder that isn't there yet")


def write_model_folder(folder: Path, model: Any, tokenizer: Any, prompts: Prompts) -> Path:
    """Write a model with its tokenizer and prompts as a folder that ``--base`` takes.

    All or nothing, by one rename.

    Raises:
        Exists: if ``folder`` does.
    """
    check_new_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        model.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
        text = json.dumps(asdict(prompts), indent=2, ensure_ascii=False)
        (partial / FILE_NAME).write_text(text + "\n", encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder
