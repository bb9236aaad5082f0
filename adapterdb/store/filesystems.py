"""File systems on which SQLite's write-ahead log is not safe.

Its readers and writers meet in shared memory, which a network file system does not share between
machines: two of them would damage the catalog without noticing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import psutil

from adapterdb.errors import StorageFailed

NETWORK = {
    "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "smb3", "smbfs",
}  # fmt: skip
NETWORK_FUSE = ("ceph", "davfs", "gluster", "gcsfuse", "rclone", "s3fs", "sshfs")


class Partition(Protocol):
    """What is mounted where, as psutil tells it."""

    @property
    def mountpoint(self) -> str:
        """Folder below which it is seen."""

    @property
    def fstype(self) -> str:
        """Type of the file system."""


def network_type(path: Path, partitions: Iterable[Partition] | None = None) -> str | None:
    """Type of the network file system that ``path`` lies on; None if it lies on a local disk.

    Args:
        path: need not exist.
        partitions: what is mounted, in the order of mounting; None asks the system.
    """
    place = path.resolve()
    found, depth = "", -1
    for part in psutil.disk_partitions(all=True) if partitions is None else partitions:
        mounted = Path(part.mountpoint)
        if place.is_relative_to(mounted) and len(mounted.parts) >= depth:
            found, depth = part.fstype.lower(), len(mounted.parts)
    kind, _, name = found.partition(".")
    far = kind in NETWORK or (kind == "fuse" and name.startswith(NETWORK_FUSE))
    return found if far else None


def refuse_network(path: Path, partitions: Iterable[Partition] | None = None) -> None:
    """StorageFailed (code ``network_file_system``) if a catalog at ``path`` would not be safe."""
    kind = network_type(path, partitions)
    if kind is not None:
        raise StorageFailed(
            f"{path.parent} lies on a network file system ({kind}), where SQLite is not safe",
            code="network_file_system",
            hint="put the home on a local disk, or its catalog on PostgreSQL with --catalog",
        )
