"""The folder of a store: which files it has, and the ``FORMAT`` file that makes it exist.

FORMAT      format number and uuid of the store, where its catalog is; written last
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
from adapterdb.store.catalog_url import without_secrets
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

    @property
    def quarantine(self) -> Path:
        """Where repair puts what it takes away."""
        return self.folder / "quarantine"

    @property
    def reserve(self) -> Path:
        """Space kept aside for deleting on a full disk."""
        return self.folder / "reserve.bin"

    @property
    def writers(self) -> Path:
        """Folder of the lock files that tell which writers live."""
        return self.locks / "writers"

    def make_folders(self) -> None:
        """Make what is missing."""
        with storage_failures(f"home {self.folder}"):
            for folder in (self.weights, self.index, self.locks):
                folder.mkdir(parents=True, exist_ok=True)

    def write_format(self, number: int, uuid: str, catalog_url: str | None = None) -> None:
        """Make the store exist, durably; a URL is remembered without its password."""
        facts: dict[str, int | str] = {"adapterdb_store_format": number, "uuid": uuid}
        if catalog_url is not None:
            facts["catalog"] = without_secrets(catalog_url)
        temporary = self.format.with_name("FORMAT.new")
        with storage_failures(f"home {self.folder}"):
            with temporary.open("w", encoding="ascii") as file:
                file.write(json.dumps(facts) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.format)
            sync_folder(self.folder)
            sync_folder(self.folder.resolve().parent)

    def read_format(self) -> tuple[int, str]:
        """Format number and uuid; NotFound if there is no store, Corrupt if it is not readable."""
        facts = self._facts()
        return int(facts["adapterdb_store_format"]), str(facts["uuid"])

    def catalog_url(self) -> str | None:
        """Where the catalog is, if it is not in the folder; NotFound, Corrupt as above."""
        url = self._facts().get("catalog")
        return None if url is None else str(url)

    def _facts(self) -> dict[str, int | str]:
        try:
            facts = json.loads(self.format.read_text(encoding="ascii"))
            int(facts["adapterdb_store_format"]), str(facts["uuid"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                f"there is no store in {self.folder}", hint="make one with `adb init`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{self.format} can't be understood", code="format") from error
        found: dict[str, int | str] = facts
        return found

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of catalog, weight files and index."""
        catalog = bytes_of(self.folder.glob("meta.db*"))
        return catalog, bytes_of(self.weights.rglob("*")), bytes_of(self.index.rglob("*"))


def bytes_of(paths: Iterable[Path]) -> int:
    """Bytes of the files among ``paths``."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):  # another process may tidy up meanwhile
            found = path.stat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
