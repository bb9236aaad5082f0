"""The folder of a store: which files it has, and the ``FORMAT`` file that makes it exist.

FORMAT      format number and uuid of the store; written last
meta.db     the catalog, unless it is elsewhere
weights/    delta rows        lance/    search index        locks/    lock files
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapterdb.errors import Corrupt, NotFound
from adapterdb.store.failures import storage_failures
from adapterdb.store.weights import sync_folder


@dataclass(frozen=True)
class Folders:
    """Paths below ``folder``."""

    folder: Path

    @property
    def format(self) -> Path:
        """The file that makes the store exist."""
        return self.folder / "FORMAT"

    @property
    def catalog(self) -> Path:
        """The SQLite file."""
        return self.folder / "meta.db"

    @property
    def weights(self) -> Path:
        """Folder of the weight files."""
        return self.folder / "weights"

    @property
    def index(self) -> Path:
        """Folder of the index."""
        return self.folder / "lance"

    @property
    def locks(self) -> Path:
        """Folder of the lock files."""
        return self.folder / "locks"

    def make_folders(self) -> None:
        """Make what is missing."""
        with storage_failures(f"home {self.folder}"):
            for folder in (self.weights, self.index, self.locks):
                folder.mkdir(parents=True, exist_ok=True)

    def write_format(self, number: int, uuid: str) -> None:
        """Make the store exist, durably."""
        temporary = self.format.with_name("FORMAT.new")
        with storage_failures(f"home {self.folder}"):
            with temporary.open("w", encoding="ascii") as file:
                file.write(json.dumps({"adapterdb_store_format": number, "uuid": uuid}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.format)
            sync_folder(self.folder)

    def read_format(self) -> tuple[int, str]:
        """Format number and uuid; NotFound if there is no store, Corrupt if it is not readable."""
        try:
            data = json.loads(self.format.read_text(encoding="ascii"))
            return int(data["adapterdb_store_format"]), str(data["uuid"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                f"there is no store in {self.folder}", hint="make one with `adb init`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{self.format} can't be understood", code="format") from error

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of catalog, weight files and index."""
        catalog = _size(self.folder.glob("meta.db*"))
        return catalog, _size(self.weights.rglob("*")), _size(self.index.rglob("*"))


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):  # another process may tidy up meanwhile
            found = path.stat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
