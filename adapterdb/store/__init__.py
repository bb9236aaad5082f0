"""Where documents, passages and deltas are kept: SQL catalog, weight files, derived index."""

from adapterdb.store.check import check
from adapterdb.store.filters import Filter, parse_filter
from adapterdb.store.findings import Finding, Repaired
from adapterdb.store.repair import repair
from adapterdb.store.rows import (
    NewDocument,
    NewPassage,
    PassageRow,
    RowRef,
    Scored,
    StoreInfo,
)
from adapterdb.store.stats import StoreStats
from adapterdb.store.store import Store

__all__ = [
    "Filter",
    "Finding",
    "NewDocument",
    "NewPassage",
    "PassageRow",
    "Repaired",
    "RowRef",
    "Scored",
    "Store",
    "StoreInfo",
    "StoreStats",
    "check",
    "parse_filter",
    "repair",
]
