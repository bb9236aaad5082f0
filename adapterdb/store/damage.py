"""Marks on what can't be used any more: lost delta rows, and documents that must be made again.

A document is made again when the key it was stored under is not the one that ingest computes. So
its key gets a beginning that no key has, which can be taken off should the lost be found.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, exists, func, literal, select, update
from sqlalchemy.orm import Session

from adapterdb.store.tables import DeltaTable, DocumentTable, PassageTable

AGAIN = "damaged:"
CHUNK = 5000


def lose_rows(session: Session, delta_ids: Sequence[str]) -> None:
    """Say of deltas that their rows are lost, and let ingest make their documents again."""
    for at in range(0, len(delta_ids), CHUNK):
        lost = DeltaTable.id.in_(delta_ids[at : at + CHUNK])
        session.execute(update(DeltaTable).where(lost).values(damaged=True))
        passages = select(DeltaTable.passage_id).where(lost)
        owners = select(PassageTable.document_id).where(PassageTable.id.in_(passages))
        make_again(session, owners)


def make_again(session: Session, documents: Sequence[int] | Select[int]) -> None:
    """Let the next ingest of these documents make them anew, though nothing about them changed."""
    unmarked = ~DocumentTable.key.startswith(AGAIN, autoescape=True)
    chosen = update(DocumentTable).where(DocumentTable.id.in_(documents), unmarked)
    session.execute(
        chosen.values(key=literal(AGAIN) + DocumentTable.key),
        execution_options={"synchronize_session": False},
    )


def find_rows(session: Session, delta_ids: Sequence[str]) -> None:
    """Say of deltas that their rows are there again."""
    session.execute(
        update(DeltaTable).where(DeltaTable.id.in_(delta_ids)).values(damaged=False),
        execution_options={"synchronize_session": False},
    )


def as_made(session: Session, document_id: int) -> None:
    """Give a document that is whole again the key it was made under."""
    lost = (
        exists()
        .where(DeltaTable.passage_id == PassageTable.id)
        .where(PassageTable.document_id == document_id, DeltaTable.damaged)
    )
    marked = DocumentTable.key.startswith(AGAIN, autoescape=True)
    chosen = update(DocumentTable).where(DocumentTable.id == document_id, marked, ~lost)
    session.execute(
        chosen.values(key=func.substr(DocumentTable.key, len(AGAIN) + 1)),
        execution_options={"synchronize_session": False},
    )
