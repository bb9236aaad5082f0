"""``Maintenance``: looking after a home; each method a few lines over a file of ``store``.

Safe beside any other work on the home, of this process or others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterdb.home import Home

if TYPE_CHECKING:
    from adapterdb.store.applier import Optimized
    from adapterdb.store.upkeep.backup import CopyReport
    from adapterdb.store.upkeep.findings import Finding, Repaired
    from adapterdb.store.upkeep.gc import Collected


class Maintenance:
    """What an operator does with a home; made by ``AdapterDB.maintenance``."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def check(self, *, deep: bool = False) -> Sequence[Finding]:
        """Compare catalog, weight files and index; empty when all is well. Changes nothing.

        Args:
            deep: also read every weight file, row and text, and every indexed vector and text.
        """
        from adapterdb.store.upkeep.check import check

        return check(self._home.store, deep=deep)

    def repair(self) -> Sequence[Repaired]:
        """Mend what a deep check finds, as far as it can be; see ``store.upkeep.repair``.

        Documents that can't be mended are made again when they are next ingested.
        """
        from adapterdb.store.upkeep.repair import repair

        done = repair(self._home.store)
        self._home.drop_resident()
        return done

    def gc(self, *, grace_h: float = 24.0, dry_run: bool = False) -> Collected:
        """Remove what retention no longer keeps and what nothing names, see ``store.upkeep.gc``."""
        from adapterdb.store.upkeep.gc import collect

        keep = self._home.config.retention
        return collect(self._home.store, keep, grace_h=grace_h, dry_run=dry_run)

    def optimize(self, *, namespace: str | None = None) -> Sequence[Optimized]:
        """Tidy the index and hold it against the catalog, see ``store.upkeep.optimize``."""
        from adapterdb.store.upkeep.optimize import optimize

        return optimize(self._home.store, namespace)

    def backup(self, folder: str | Path) -> CopyReport:
        """Copy the home, as it is at one moment, into a new folder, see ``store.upkeep.backup``."""
        from adapterdb.store.upkeep.backup import backup

        return backup(self._home.store, Path(folder))
