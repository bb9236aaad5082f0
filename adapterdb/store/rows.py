"""What goes into the store and what comes out of it: plain frozen records.

Light on purpose: no SQL, no torch, so that every layer above may import it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt
from adapterdb.layout import DeltaLayout
from adapterdb.records import DeltaKind, Document, Passage, Record

Vector = NDArray[np.float32]
"""One embedding ``(D,)``."""


@dataclass(frozen=True)
class StoreInfo:
    """What a store was made for; fixed at ``Store.create``, checked by whoever opens it.

    Args:
        base_fingerprint: of the base model (weights, config, tokenizer).
        embedder_fingerprint: of the embedding model and how it is used.
        dimension: D, numbers in a passage vector.
        layout: where factors sit in a delta row of P numbers.
        dtype: how delta rows are stored.
        recipe_fingerprint: of the training recipe.
        extra: anything else worth remembering, by names of the caller's choice.
    """

    base_fingerprint: str
    embedder_fingerprint: str
    dimension: int
    layout: DeltaLayout
    dtype: DeltaDtype = "bfloat16"
    recipe_fingerprint: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def to_texts(self) -> dict[str, str]:
        """Names and texts that ``from_texts`` reads."""
        texts = {
            "base_fingerprint": self.base_fingerprint,
            "embedder_fingerprint": self.embedder_fingerprint,
            "dimension": str(self.dimension),
            "layout": json.dumps(self.layout.to_dict()),
            "layout_fingerprint": self.layout.fingerprint,
            "dtype": self.dtype,
            "recipe_fingerprint": self.recipe_fingerprint,
        }
        return texts | {f"extra:{name}": value for name, value in self.extra.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> StoreInfo:
        """The record that ``to_texts`` wrote; other names are passed over.

        Raises:
            Corrupt: code ``catalog``, if something is missing or can't be understood.
        """
        extra = {k.removeprefix("extra:"): v for k, v in texts.items() if k.startswith("extra:")}
        try:
            return cls(
                base_fingerprint=texts["base_fingerprint"],
                embedder_fingerprint=texts["embedder_fingerprint"],
                dimension=int(texts["dimension"]),
                layout=DeltaLayout.from_dict(json.loads(texts["layout"])),
                dtype=cast(DeltaDtype, texts["dtype"]),
                recipe_fingerprint=texts["recipe_fingerprint"],
                extra=extra,
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Corrupt(
                f"what the catalog says of the store is damaged: {type(error).__name__} {error}",
                code="catalog",
                hint="restore a backup",
            ) from error


@dataclass(frozen=True)
class RowRef:
    """Where one stored delta row lies and how to know it is intact.

    Args:
        file: name (sha256, hex) of the weight file.
        offset: of the row's first byte in that file.
        size_bytes: of the row as ``dtype`` is stored (``encoding``).
        sha256: of the row's bytes, hex.
        norm: how strongly it acts: L2 norm of the row, or, of LoRA factors, of the weight change
            they make; 0 where it is not known.
    """

    file: str
    offset: int
    size_bytes: int
    dtype: DeltaDtype
    sha256: str
    norm: float


@dataclass(frozen=True, eq=False)
class NewPassage:
    """A passage to be committed, its vector, and its delta row already durable in a weight file.

    Args:
        vector: float32 ``(D,)``, unit length.
        row: as returned by ``Store.write_rows``; passages of one cluster share theirs, and
            documents that share a row are best committed together.
        loss_before, loss_after, loss_shifted, flag: see ``records.Delta``.
        own: its text is among those the row was made from; without it, others of its cluster are.
        meta_init_fingerprint: of the shared start the delta was made from, or an empty string.
        parents: ids of the deltas it was made from: it is withdrawn when one of them is.
        prototype: its cores (``adapterdb.prototype.to_bytes``); empty: to be computed when needed.
    """

    passage: Passage
    vector: Vector
    row: RowRef
    kind: DeltaKind
    recipe: str
    loss_before: float | None = None
    loss_after: float | None = None
    meta_init_fingerprint: str = ""
    parents: tuple[str, ...] = ()
    own: bool = True
    loss_shifted: float | None = None
    flag: str = ""
    prototype: bytes = b""


@dataclass(frozen=True, eq=False)
class NewDocument:
    """A document with all of its passages, to become one version in one transaction.

    Args:
        text_sha256: of the document's text, hex.
        key: of everything the deltas depend on; an equal key of the active version means
            there is nothing to do (``Store.is_current``).
    """

    namespace: str
    document: Document
    text_sha256: str
    key: str
    passages: tuple[NewPassage, ...]


@dataclass(frozen=True)
class PassageRow(Record):
    """A passage of an active document, with the delta made from it and where its row lies.

    ``shared_start`` and ``damaged`` as in ``records.Delta``, ``prototype`` as in ``NewPassage``.
    """

    passage_id: int
    delta_id: str
    kind: DeltaKind
    namespace: str
    document: str
    version: int
    title: str
    ordinal: int
    start: int
    end: int
    text: str
    tokens: int
    row: RowRef
    shared_start: str
    damaged: bool
    prototype: bytes = b""


class Scored(NamedTuple):
    """A passage and how well it fits: cosine for vectors, BM25 for text; higher is better."""

    passage: PassageRow
    score: float
