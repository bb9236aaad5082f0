"""Where repair puts what it takes away: ``quarantine/<code>/`` in the home, nothing is deleted.

``adb forget`` empties it; anyone else may, once it is of no more use.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from adapterdb.store.failures import storage_failures
from adapterdb.store.weights import sync_folder

if TYPE_CHECKING:
    from adapterdb.store.store import Store


def take_away(store: Store, code: str, path: Path) -> Path:
    """Move a file or folder of the home there, durably; its new place."""
    with storage_failures(f"quarantine of {path}"):
        place = _free(_folder(store, code), path)
        path.rename(place)
        sync_folder(place.parent)
        sync_folder(path.parent)
    store.on_step("quarantined")
    return place


def keep(store: Store, code: str, path: Path) -> Path:
    """Have a file there too, durably, and leave it where it is; where it is kept."""
    with storage_failures(f"quarantine of {path}"):
        folder = _folder(store, code)
        for before in folder.glob(f"{path.name}*"):
            if before.samefile(path):  # of a repair that was broken off
                return before
        place = _free(folder, path)
        try:
            os.link(path, place)
        except OSError:  # a file system without links
            shutil.copyfile(path, place)
            sync_folder(place)
        sync_folder(folder)
    store.on_step("quarantined")
    return place


def _folder(store: Store, code: str) -> Path:
    folder = store.paths.quarantine / code
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(store.paths.quarantine)
    sync_folder(store.home)
    return folder


def _free(folder: Path, path: Path) -> Path:
    """A place for ``path`` that nothing has taken."""
    place, n = folder / path.name, 1
    while place.exists():
        n += 1
        place = folder / f"{path.name}.{n}"
    return place
