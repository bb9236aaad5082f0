"""Where the files of a named model lie: a folder, or the Hub's cache on this disk.

The one place that could reach a network, and does so only when the caller allows it.
"""

from __future__ import annotations

from pathlib import Path

from adapterdb.errors import ModelUnavailable

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
