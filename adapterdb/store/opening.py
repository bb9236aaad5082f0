"""How a store comes to be, and how its catalog is found, checked and brought up to date."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from filelock import FileLock

from adapterdb.errors import Corrupt, Exists, Mismatch
from adapterdb.store.catalog import Catalog
from adapterdb.store.engines import ROOM_BYTES, has_room
from adapterdb.store.failures import storage_failures
from adapterdb.store.folders import Folders
from adapterdb.store.migrations import FORMAT, check_format
from adapterdb.store.reserve import Reserve
from adapterdb.store.rows import StoreInfo
from adapterdb.store.sessions import Sessions


def make(folder: Path, info: StoreInfo, catalog_url: str | None) -> None:
    """Make a new store in ``folder``; ``FORMAT``, written last, makes it exist.

    Raises:
        Exists: if there is one, in the folder or behind ``catalog_url``.
        StorageFailed: if the folder can't be written or the catalog not reached.
    """
    folders = Folders(folder)
    if catalog_url is not None:  # else a folder would be made, and left behind in vain
        with closing(Sessions(folders.catalog, url=catalog_url, create=True)) as sessions:
            sessions.connect()
    folders.make_folders()
    with storage_failures(f"home {folder}"), FileLock(folders.locks / "create.lock"):
        if folders.format.exists():
            raise Exists(f"there is a store in {folder} already")
        with closing(Sessions(folders.catalog, url=catalog_url, create=True)) as sessions:
            folders.write_format(FORMAT, Catalog(sessions).found(info), catalog_url)


def open_catalog(folders: Folders, catalog_url: str | None, *, read_only: bool) -> Sessions:
    """The catalog of the store in ``folders``, in the format of this program.

    Raises:
        NotFound: if there is no store.
        Corrupt: code ``lost_catalog``.
        Mismatch: code ``format`` or ``store``.
    """
    number, uuid = folders.read_format()
    check_format(number, number)
    catalog_url = catalog_url or folders.catalog_url()
    if catalog_url is None and not folders.catalog.exists():
        raise Corrupt(
            f"{folders.catalog} is missing",
            code="lost_catalog",
            hint="restore it from a backup",
        )
    if not read_only and not has_room(folders.folder):
        # not even opening would work; the rest is for deleting
        Reserve(folders.reserve).give_up(ROOM_BYTES)
    sessions = Sessions(folders.catalog, url=catalog_url, read_only=read_only)
    try:
        catalog = Catalog(sessions)
        catalog.bring_up_to_date(read_only=read_only)
        found = catalog.info().get("uuid")
        if found != uuid:
            raise Mismatch(
                f"the catalog belongs to store {found}, {folders.folder} to {uuid}", code="store"
            )
    except BaseException:
        sessions.close()
        raise
    return sessions
