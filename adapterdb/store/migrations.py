"""The catalog's format, one numbered step at a time, applied on open.

Each step takes a catalog from the format before to its own number, inside one transaction with all
others that are due. Steps never change once released; a new format is a new function at the end.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect, select, update

from adapterdb.errors import Mismatch
from adapterdb.store.tables import InfoTable, Table

Step = Callable[[Connection], None]


def _step_1(connection: Connection) -> None:
    """The first format."""
    Table.metadata.create_all(connection)


STEPS: tuple[Step, ...] = (_step_1,)
FORMAT = len(STEPS)


def stored_format(connection: Connection) -> int:
    """The format of the catalog behind ``connection``; 0 if it holds none."""
    if not inspect(connection).has_table(InfoTable.__tablename__):
        return 0
    query = select(InfoTable.value).where(InfoTable.name == "format")
    return int(connection.execute(query).scalar_one_or_none() or 0)


def check_format(found: int, min_reader: int) -> None:
    """Mismatch (code ``format``) if this program is too old to read a store."""
    if min_reader > FORMAT:
        raise Mismatch(
            f"the store has format {found} and asks for a program that knows {min_reader};"
            f" this one knows {FORMAT}",
            code="format",
            hint="install a newer AdapterDB",
        )


def migrate(connection: Connection) -> int:
    """Apply the steps that are due; the number applied. ``connection`` is in a write transaction.

    Raises:
        Mismatch: code ``format``, if the catalog is newer than this program; nothing is changed.
    """
    found = stored_format(connection)
    if found > FORMAT:
        check_format(found, found)
    for step in STEPS[found:]:
        step(connection)
    if found not in (0, FORMAT):
        value = str(FORMAT)
        names = ("format", "min_reader")
        connection.execute(update(InfoTable).where(InfoTable.name.in_(names)).values(value=value))
    return FORMAT - found
