"""Where documents, passages and deltas are kept: SQL catalog, weight files, derived index."""

from adapterdb.store.filters import Filter, parse_filter
from adapterdb.store.rows import (
    NewDocument,
    NewPassage,
    PassageRow,
    RowRef,
    Scored,
    StoreInfo,
)
from adapterdb.store.store import Store
from adapterdb.store.upkeep.check import check
from adapterdb.store.upkeep.findings import Finding, Repaired
from adapterdb.store.upkeep.repair import repair
from adapterdb.store.upkeep.stats import StoreStats

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
