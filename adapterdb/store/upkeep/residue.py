"""Looks for what is left of erased passages: distinctive bytes of them in every file of a home.

Samples of their texts, vectors, delta rows and prototypes are taken before they are erased; samples
that also occur in what is kept (a phrase in two documents, one row brought back twice) prove
nothing and are dropped. Finding none is evidence, not proof: an index compresses text, so its
folders are replaced as a whole rather than trusted to a scan.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapterdb.errors import StorageFailed
from adapterdb.store.tables import WITHDRAWN, DeltaTable, DocumentTable, PassageTable
from adapterdb.store.upkeep import byte_search
from adapterdb.store.weights import Weights

PIECE = 48  # characters or bytes of a sample
MIN_CHARS = 16  # shorter names and titles occur anywhere
MIN_DISTINCT = 12  # different bytes in a sample of numbers, so that it is not mere padding
MAX_SAMPLES = 96  # of each kind: a scan reads every file once for each


class Searched(NamedTuple):
    """Files read, their bytes, and those that hold a sample."""

    files: int
    size_bytes: int
    found: list[Path]


@dataclass
class Samples:
    """Bytes that should be found nowhere any more."""

    texts: set[str] = field(default_factory=set)
    numbers: set[bytes] = field(default_factory=set)

    @property
    def needles(self) -> list[bytes]:
        """What to look for."""
        return [*(text.encode() for text in sorted(self.texts)), *sorted(self.numbers)]


def take(session: Session, weights: Weights, document_ids: Sequence[int]) -> Samples:
    """Samples of document versions that are about to be erased."""
    samples = Samples()
    for document_id in document_ids:
        document = session.get_one(DocumentTable, document_id)
        samples.texts.update(_pieces(document.text))
        samples.texts.update(t for t in _labels(document) if len(t) >= MIN_CHARS)
        query = select(PassageTable.vector, DeltaTable).join(
            DeltaTable, DeltaTable.passage_id == PassageTable.id
        )
        for vector, delta in session.execute(query.where(PassageTable.document_id == document_id)):
            for data in (vector, _row_bytes(weights, delta), delta.prototype or b""):
                samples.numbers.update(_distinct(data))
    samples.texts = set(_spread(sorted(samples.texts), MAX_SAMPLES))
    samples.numbers = set(_spread(sorted(samples.numbers), MAX_SAMPLES))
    return samples


def drop_kept(session: Session, samples: Samples, weights: Weights) -> None:
    """Drop the samples that also occur in what the catalog still holds."""
    for document in session.scalars(select(DocumentTable).execution_options(yield_per=100)):
        kept = "\n".join([document.text, *_labels(document)])
        samples.texts = {text for text in samples.texts if text not in kept}
    for vector in session.scalars(select(PassageTable.vector).execution_options(yield_per=5000)):
        samples.numbers -= set(_distinct(vector))
    # equal numbers in two rows mean equal rows, for all that is likely
    query = select(DeltaTable).where(DeltaTable.flag != WITHDRAWN)
    query = query.execution_options(yield_per=5000)
    if samples.numbers:
        for delta in session.scalars(query):
            samples.numbers -= set(_distinct(_row_bytes(weights, delta)))
            samples.numbers -= set(_distinct(delta.prototype or b""))


def search(places: Sequence[Path], samples: Samples) -> Searched:
    """Look for the samples in every file at or below ``places``, in a process of its own.

    Raises:
        StorageFailed: if the files can't be read.
    """
    asked = {
        "places": [str(place) for place in places],
        "needles": [base64.b64encode(needle).decode() for needle in samples.needles],
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", byte_search.__file__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        raise StorageFailed(f"the files of the home can't be searched: {said[0]}", code="io")
    told = json.loads(done.stdout)
    return Searched(told["files"], told["size_bytes"], [Path(path) for path in told["found"]])


def _labels(document: DocumentTable) -> list[str]:
    values: list[Any] = []
    for value in document.fields.values():
        values += value if isinstance(value, list) else [value]
    texts = [value for value in values if isinstance(value, str)]
    return [document.name, document.title, document.source, *texts, json.dumps(document.fields)]


def _pieces(text: str) -> list[str]:
    """Pieces spread over a text; the whole of a short one."""
    if len(text) <= PIECE:
        return [text] if len(text) >= MIN_CHARS else []
    count = min(16, len(text) // PIECE)
    step = (len(text) - PIECE) // max(1, count - 1) if count > 1 else 1
    return [text[i * step : i * step + PIECE] for i in range(count)]


def _distinct(data: bytes) -> list[bytes]:
    """A piece from the middle of some numbers, unless it could be anything."""
    middle = max(0, len(data) // 2 - PIECE // 2)
    piece = data[middle : middle + PIECE]
    return [piece] if len(set(piece)) >= MIN_DISTINCT else []


def _row_bytes(weights: Weights, delta: DeltaTable) -> bytes:
    try:
        with weights.path(delta.file).open("rb") as file:
            file.seek(delta.offset)
            return file.read(delta.size_bytes)
    except FileNotFoundError:
        return b""


def _spread(items: Sequence[Any], most: int) -> Sequence[Any]:
    """At most ``most`` of the items, evenly."""
    step = -(-len(items) // most) if items else 1
    return items[::step]
