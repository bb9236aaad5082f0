"""Space kept aside in a home, so that deleting works on a full disk.

Deleting writes before it frees anything. When it finds the disk full, the reserve is given up, the
deletion done, and the reserve made again as soon as there is room.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from adapterdb.errors import StorageFailed

logger = logging.getLogger(__name__)
T = TypeVar("T")

SIZE_BYTES = 8 * 2**20
PLENTY = 4  # times as much must be free before some is set aside


class Reserve:
    """The file ``path`` of ``SIZE_BYTES``, allocated when there is room."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def held_bytes(self) -> int:
        """Bytes kept aside now."""
        try:
            return self.path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def fill(self) -> bool:
        """Set the space aside, if it is not and there is plenty; whether it is there now."""
        if self.held_bytes >= SIZE_BYTES:
            return True
        with suppress(OSError):  # a disk just filled, a folder that can't be written: later, then
            if shutil.disk_usage(self.path.parent).free < PLENTY * SIZE_BYTES:
                return False
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, SIZE_BYTES)
                return True
            except OSError:
                os.ftruncate(descriptor, 0)  # what was found must not stay taken
            finally:
                os.close(descriptor)
        return False

    def despite_full_disk(self, act: Callable[[], T]) -> T:
        """What ``act`` returns; if it finds the disk full, once more with this space given up."""
        try:
            return act()
        except StorageFailed as error:
            if error.code != "disk_full" or not self.give_up():
                raise
        logger.warning("the disk is full: going on with the space that was kept aside")
        return act()

    def give_up(self, size_bytes: int = SIZE_BYTES) -> bool:
        """Free as much of the space; whether there was any."""
        held = self.held_bytes
        with suppress(FileNotFoundError):
            os.truncate(self.path, max(0, held - size_bytes))
        return held > 0
