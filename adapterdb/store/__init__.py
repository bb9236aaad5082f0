"""Where documents, passages and deltas are kept: SQL catalog, weight files, derived index."""

from adapterdb.store.check import Finding, check
from adapterdb.store.filters import Filter, parse_filter
from adapterdb.store.rows import (
    NewDocument,
    NewPassage,
    PassageRow,
    RowRef,
    Scored,
    StoreInfo,
    StoreStats,
)
from adapterdb.store.store import Store

__all__ = [
    "Filter",
    "Finding",
    "NewDocument",
    "NewPassage",
    "PassageRow",
    "RowRef",
    "Scored",
    "Store",
    "StoreInfo",
    "StoreStats",
    "check",
    "parse_filter",
]
