"""AdapterDB: a database that turns documents into small stored weight changes of a frozen model."""

from adapterdb.answers import Answer, Generation, Mixture, Source, Token
from adapterdb.config import ChunkConfig, Config, LimitConfig, SearchConfig
from adapterdb.database import AdapterDB
from adapterdb.errors import AdapterDBError
from adapterdb.home import LoadOptions
from adapterdb.layout import LoraSpec
from adapterdb.records import Delta, Document, Estimate, Hit, IngestReport, Progress, StoredDocument

__version__ = "0.1.0"

__all__ = [
    "AdapterDB",
    "AdapterDBError",
    "Answer",
    "ChunkConfig",
    "Config",
    "Delta",
    "Document",
    "Estimate",
    "Generation",
    "Hit",
    "IngestReport",
    "LimitConfig",
    "LoadOptions",
    "LoraSpec",
    "Mixture",
    "Progress",
    "SearchConfig",
    "Source",
    "StoredDocument",
    "Token",
    "__version__",
]
