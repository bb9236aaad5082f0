"""What does not agree in a home: catalog, weight files, index and outbox, compared both ways.

Only looks; changes nothing, and works on a home that can't be written. Others may write meanwhile:
what they are about to finish is not taken for damage. ``repair`` mends what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from adapterdb.errors import Corrupt
from adapterdb.store.upkeep import catalog_check, file_check, index_check
from adapterdb.store.upkeep.findings import RESTORE, Finding

if TYPE_CHECKING:
    from adapterdb.store.store import Store


def check(store: Store, *, deep: bool = False) -> list[Finding]:
    """What is wrong in the home of ``store``; empty if all is well.

    Args:
        store: an open store; may be open for reading only.
        deep: also read every weight file, row and text, and every indexed vector and text.
    """
    found = [*catalog_check.database(store, deep=deep)]
    sections: list[Callable[[], Iterator[Finding]]] = [
        lambda: catalog_check.rows(store),
        lambda: file_check.weight_files(store, deep=deep),
        lambda: file_check.rows(store, deep=deep),
        lambda: file_check.left(store),
        lambda: index_check.index(store, deep=deep),
        lambda: index_check.folders(store),
    ]
    if deep:
        sections[1:1] = [
            lambda: catalog_check.texts(store),
            lambda: catalog_check.prototypes(store),
        ]
    for section in sections:
        try:
            found += section()
        except Corrupt as error:  # the database could not be read to the end
            what = f"the catalog: {error.message}"
            found.append(Finding("catalog", "error", what, RESTORE, repairable=False))
    return found
